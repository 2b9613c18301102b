//! Mistakes of clients with the opening handshake and the frames of a WebSocket. The proxy between
//! client and server makes them.

use super::{Mistake, keep};
use crate::{
    client_wrong::memory::Lane::Event,
    frame::{CLOSE, FIN, Frame, PONG},
    server_ws_proxy::{Act, End, Part, change_head, remove_line},
};

/// A mistake that is made with parts, and not with lines.
const fn part(name: &'static str, about: &'static str) -> Mistake {
    Mistake { name, about, lanes: &[], make: |_, _, _| Vec::new() }
}

pub(super) const MISTAKES: &[Mistake] = &[
    part("asks-for-no-subprotocol", "asks for no subprotocol"),
    part("takes-any-subprotocol", "does not check the subprotocol"),
    part("takes-extensions", "accepts an extension that it has not offered"),
    Mistake {
        name: "takes-any-status",
        about: "takes a refused request for a connection",
        lanes: &[Event],
        make: |_, lane, line| keep(lane, line.replace("failed", "connected")),
    },
    part("has-its-credentials-in-the-path", "puts credentials into the address"),
    part("takes-texts", "accepts text messages"),
    part("completes-lines-of-messages", "takes the end of a message for that of a line"),
    part("takes-masked-frames", "accepts masked frames of the server"),
    part("writes-bare-frames", "does not mask its frames"),
    part("answers-pings-with-nothing", "answers pings without their payload"),
    part("closes-with-1000", "closes with the code 1000 after a fault"),
    part("cuts-fragments", "takes each frame for a message"),
    part("loses-the-close-frame", "ignores the close frame of the server"),
];

/// What a mistake does with the parts of a WebSocket.
pub(in crate::client_wrong) fn act(name: &str) -> Act {
    match name {
        "asks-for-no-subprotocol" => |end, part| {
            change_head(End::Client, end, part, |lines| {
                remove_line(lines, "sec-websocket-protocol:")
            })
        },
        "takes-any-subprotocol" => |end, part| {
            change_head(End::Server, end, part, |lines| {
                remove_line(lines, "sec-websocket-protocol:");
                lines.insert(1, "Sec-WebSocket-Protocol: bellwire.v1".to_owned());
            })
        },
        "takes-extensions" => |end, part| {
            change_head(End::Server, end, part, |lines| {
                remove_line(lines, "sec-websocket-extensions:")
            })
        },
        "has-its-credentials-in-the-path" => |end, part| {
            change_head(End::Client, end, part, |lines| {
                lines[0] = lines[0].replacen(" HTTP", "?token=secret HTTP", 1);
            })
        },
        "takes-texts" => |end, part| {
            frame(End::Server, end, part, |frame| {
                if frame.opcode() == 1 {
                    frame.first += 1;
                }
            })
        },
        "completes-lines-of-messages" => |end, part| {
            frame(End::Server, end, part, |frame| {
                if frame.first == 0x82 && !frame.payload.ends_with(b"\n") {
                    frame.payload.push(b'\n');
                }
            })
        },
        "takes-masked-frames" => {
            |end, part| frame(End::Server, end, part, |frame| frame.is_masked = false)
        }
        "writes-bare-frames" => {
            |end, part| frame(End::Client, end, part, |frame| frame.is_masked = false)
        }
        "answers-pings-with-nothing" => |end, part| {
            frame(End::Client, end, part, |frame| {
                if frame.first == PONG {
                    frame.payload.clear();
                }
            })
        },
        "closes-with-1000" => |end, part| {
            frame(End::Client, end, part, |frame| {
                if frame.first == CLOSE {
                    frame.payload = 1000_u16.to_be_bytes().to_vec();
                }
            })
        },
        "cuts-fragments" => |end, part| {
            frame(End::Server, end, part, |frame| {
                if !frame.is_control() {
                    frame.first = 0x02 | FIN;
                }
            })
        },
        "loses-the-close-frame" => |end, part| match part {
            Part::Frame(Frame { first: CLOSE, .. }) if end == End::Server => Vec::new(),
            part => vec![part],
        },
        _ => |_, part| vec![part],
    }
}

fn frame(of: End, end: End, part: Part, change: fn(&mut Frame)) -> Vec<Part> {
    match part {
        Part::Frame(mut frame) if end == of => {
            change(&mut frame);
            vec![Part::Frame(frame)]
        }
        part => vec![part],
    }
}
