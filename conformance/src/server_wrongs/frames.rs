//! Mistakes of servers of WebSockets: with the requests, and with frames.

use crate::{
    frame::{CLOSE, FIN, Frame, PING, PONG},
    server_ws_proxy::{End, Part, change_head, remove_line},
};

/// A mistake in what the client has sent, as the server takes it.
fn client(from: End, part: Part, change: fn(&mut Frame)) -> Vec<Part> {
    match (from, part) {
        (End::Client, Part::Frame(mut frame)) => {
            change(&mut frame);
            vec![Part::Frame(frame)]
        }
        (_, part) => vec![part],
    }
}

/// A mistake in a frame of the server.
fn server(from: End, part: Part, change: fn(Frame) -> Vec<Frame>) -> Vec<Part> {
    match (from, part) {
        (End::Server, Part::Frame(frame)) => change(frame).into_iter().map(Part::Frame).collect(),
        (_, part) => vec![part],
    }
}

pub(super) fn ask_for_it(from: End, part: Part) -> Vec<Part> {
    change_head(End::Client, from, part, |lines| {
        remove_line(lines, "sec-websocket-protocol:");
        lines.insert(1, "Sec-WebSocket-Protocol: bellwire.v1".to_owned());
    })
}

pub(super) fn echo_nothing(from: End, part: Part) -> Vec<Part> {
    change_head(End::Server, from, part, |lines| remove_line(lines, "sec-websocket-protocol:"))
}

pub(super) fn compress(from: End, part: Part) -> Vec<Part> {
    change_head(End::Server, from, part, |lines| {
        lines.insert(1, "Sec-WebSocket-Extensions: permessage-deflate".to_owned());
    })
}

pub(super) fn forget_origin(from: End, part: Part) -> Vec<Part> {
    change_head(End::Client, from, part, |lines| remove_line(lines, "origin:"))
}

/// A port is what follows the last colon of an origin.
pub(super) fn forget_port(from: End, part: Part) -> Vec<Part> {
    change_head(End::Client, from, part, |lines| {
        let host = lines.iter().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
        let (name, host) = (host.split(':').next().unwrap_or_default(), host.to_owned());
        let origin = format!("Origin: http://{name}");
        for line in lines.iter_mut().filter(|line| line.starts_with(&origin)) {
            *line = format!("Origin: http://{host}");
        }
    })
}

pub(super) fn take_text(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| {
        if frame.opcode() == 1 {
            frame.first += 1;
        }
    })
}

pub(super) fn complete_lines(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| {
        if !frame.is_control() && frame.is_last() && !frame.payload.ends_with(b"\n") {
            frame.payload.push(b'\n');
        }
    })
}

pub(super) fn mask(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| frame.is_masked = true)
}

pub(super) fn cut_control_frames(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| {
        if frame.is_control() {
            frame.payload.truncate(125);
            frame.first |= FIN;
        }
    })
}

pub(super) fn clear_reserved_bits(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| frame.first &= 0x8f)
}

/// A message of several frames comes to the server as messages of one.
pub(super) fn end_at_frames(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| {
        if !frame.is_control() {
            frame.first = 0x82;
        }
    })
}

pub(super) fn ignore_close(from: End, part: Part) -> Vec<Part> {
    match part {
        Part::Frame(Frame { first: CLOSE, .. }) if from == End::Client => Vec::new(),
        part => vec![part],
    }
}

/// A server that takes a ping for a line.
pub(super) fn live_by_pings(from: End, part: Part) -> Vec<Part> {
    client(from, part, |frame| {
        if frame.first == PING {
            *frame = Frame::masked(0x82, b"* test.ping\n".to_vec());
        }
    })
}

pub(super) fn drop_pongs(from: End, part: Part) -> Vec<Part> {
    server(from, part, |frame| if frame.first == PONG { Vec::new() } else { vec![frame] })
}

pub(super) fn drop_close(from: End, part: Part) -> Vec<Part> {
    server(from, part, |frame| if frame.first == CLOSE { Vec::new() } else { vec![frame] })
}

pub(super) fn close_normally(from: End, part: Part) -> Vec<Part> {
    server(from, part, |frame| match frame.first {
        CLOSE => vec![Frame::bare(CLOSE, 1000_u16.to_be_bytes())],
        _ => vec![frame],
    })
}

pub(super) fn write_text(from: End, part: Part) -> Vec<Part> {
    server(from, part, |mut frame| {
        if frame.opcode() == 2 {
            frame.first -= 1;
        }
        vec![frame]
    })
}

/// Each message of the server is cut after its third byte, into two messages.
pub(super) fn cut_messages(from: End, part: Part) -> Vec<Part> {
    server(from, part, |frame| match frame.payload.split_at_checked(3) {
        Some((first, rest)) if frame.first == 0x82 => {
            vec![Frame::bare(0x82, first), Frame::bare(0x82, rest)]
        }
        _ => vec![frame],
    })
}
