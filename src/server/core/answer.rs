//! What a connection writes: replies, refusals, and `/error` notices.

use std::fmt;

use crate::{
    guard::guarded,
    protocol::{
        Code, Mark, Outcome, RequestId, encode, encode_error, encode_failure, encode_refusal,
    },
    server::{
        core::connection::{Connection, Taken},
        handlers::{
            reply::{After, Answer, Ended, Rejection, Reply},
            router::Found,
        },
    },
};

impl Connection {
    pub(super) fn on_rejection(&mut self, id: Option<RequestId>, rejection: &Rejection) {
        let Rejection { code, text, retry } = rejection;
        let text = format_args!("{text}");
        match (id, *retry) {
            (Some(id), Some(retry)) => {
                self.append_failure(Outcome::No, |out| encode_refusal(out, id, retry, code, text));
            }
            _ => _ = self.refuse_any(id, code, text),
        }
    }

    /// Answers a request that has ended. Dropping the bytes of its reply can run user code, so it
    /// is guarded.
    pub(super) fn finish_ended(
        &mut self,
        id: Option<RequestId>,
        method: Option<Found>,
        ended: Ended,
    ) {
        if let Ended::Panicked = ended {
            self.report_panic(id, method);
        }
        self.answer_ended(id, &ended);
        guarded(|| drop(ended));
    }

    #[cold]
    fn report_panic(&mut self, id: Option<RequestId>, method: Option<Found>) {
        self.active().tally.panics += 1;
        let id = id.map(RequestId::get);
        let method = method.map_or("/publish", |method| self.environment.methods.name(method));
        tracing::error!(method, id, "handler panicked");
    }

    fn answer_ended(&mut self, id: Option<RequestId>, ended: &Ended) {
        if let Ended::Refused(rejection) = ended {
            self.on_rejection(id, rejection);
        }
        let Some(id) = id else {
            if let Ended::Replied(Reply(Answer::No(rejection))) = ended {
                self.on_rejection(None, rejection);
            }
            return;
        };
        match ended {
            Ended::Refused(_) => {}
            Ended::Replied(Reply(answer)) => self.finish_answer(id, answer),
            Ended::Panicked => {
                self.answer_failure(id, Outcome::Err, &Code::INTERNAL, format_args!(""));
            }
            Ended::Starved => {
                let text = format_args!("no credit can come any more");
                self.answer_failure(id, Outcome::Cut, &Code::LOST, text);
            }
            Ended::Aborted { .. } => {
                self.answer_failure(id, Outcome::Cut, &Code::LOST, format_args!(""));
            }
        }
    }

    fn finish_answer(&mut self, id: RequestId, answer: &Answer) {
        match answer {
            Answer::Ok(payload) => self.answer(id, |out| encode::ok(out, id, payload)),
            Answer::After(after) => self.answer_after(id, after),
            Answer::Published(published) => {
                let (epoch, sequence) = (published.epoch, published.sequence);
                self.answer_ok(id, format_args!(";epoch={epoch};seq={sequence}"));
            }
            // Reached when an item of a stream is itself a stream.
            Answer::Stream(_) => {
                let text = format_args!("an item is a stream");
                self.answer_failure(id, Outcome::Err, &Code::INTERNAL, text);
            }
            Answer::Err(failure) => {
                let text = format_args!("{}", failure.text);
                self.answer_failure(id, Outcome::Err, &failure.code, text);
            }
            Answer::No(rejection) => self.on_rejection(Some(id), rejection),
            Answer::Cut(code) => {
                self.answer_failure(id, Outcome::Cut, code, format_args!(""));
            }
        }
    }

    /// Appends an `ok`, with `after` if this connection can see the position.
    fn answer_after(&mut self, id: RequestId, after: &After) {
        let After { payload, topic, position } = after;
        let subscriptions = self.subscriptions.as_ref();
        match subscriptions.is_some_and(|list| list.reads(topic, position.epoch)) {
            true => self.answer(id, |out| encode::ok_after(out, id, topic, *position, payload)),
            false => self.answer(id, |out| encode::ok(out, id, payload)),
        }
    }

    /// Appends an `ok` whose attributes have a bounded length.
    pub(super) fn answer_ok(&mut self, id: RequestId, attributes: fmt::Arguments<'_>) {
        self.active().tally.ok += 1;
        let head = format_args!("ok{attributes}");
        encode::display(self.out(), Mark::Id(id), head, format_args!(""));
    }

    /// Appends an `ok`, or `err too-large` if the line would be over the client's limit.
    pub(super) fn answer(&mut self, id: RequestId, encode: impl FnOnce(&mut Vec<u8>)) {
        let max_line = self.client_max_line;
        let out = self.out();
        let begin = out.len();
        encode(out);
        if out.len() - begin > max_line {
            out.truncate(begin);
            give_back(out, max_line);
            let text = format_args!("max-line is {max_line}");
            return self.answer_failure(id, Outcome::Err, &Code::TOO_LARGE, text);
        }
        self.active().tally.ok += 1;
    }

    /// Refuses a request. A one-way request gets an `/error` if the protocol lists the code for it.
    pub(super) fn refuse_any(
        &mut self,
        id: Option<RequestId>,
        code: &Code,
        text: fmt::Arguments<'_>,
    ) -> Taken {
        match id {
            Some(id) => self.refuse(id, code, text),
            None => self.notice_error(None, code, text),
        }
        Taken::Yes
    }

    /// Appends `* /error` if the protocol lists the code for it. Other refusals of one-way requests
    /// are not reported.
    pub(super) fn notice_error(
        &mut self,
        id: Option<RequestId>,
        code: &Code,
        text: fmt::Arguments<'_>,
    ) {
        const LISTED: [Code; 11] = [
            Code::MALFORMED,
            Code::ID_ORDER,
            Code::LINE_TOO_LONG,
            Code::UNKNOWN_METHOD,
            Code::UNKNOWN_ATTRIBUTE,
            Code::BAD_ATTRIBUTE,
            Code::BAD_ARGUMENTS,
            Code::BAD_FORM,
            Code::BUSY,
            Code::FORBIDDEN,
            Code::BAD_ACK,
        ];
        if LISTED.contains(code) {
            let max_line = self.client_max_line;
            let out = self.out();
            let begin = out.len();
            encode_error(out, id, code, text);
            cut_text(out, begin, max_line);
            // `busy` and `forbidden` are not violations: the client followed the protocol.
            if ![Code::BUSY, Code::FORBIDDEN].contains(code) {
                self.violation();
            }
        }
    }

    /// Appends `ID no CODE [text]`.
    pub(super) fn refuse(&mut self, id: RequestId, code: &Code, text: fmt::Arguments<'_>) {
        self.answer_failure(id, Outcome::No, code, text);
    }

    /// Appends a failure, with its text cut to the client's limit.
    pub(super) fn answer_failure(
        &mut self,
        id: RequestId,
        outcome: Outcome,
        code: &Code,
        text: fmt::Arguments<'_>,
    ) {
        self.append_failure(outcome, |out| encode_failure(out, id, outcome, code, text));
    }

    fn append_failure(&mut self, outcome: Outcome, encode: impl FnOnce(&mut Vec<u8>)) {
        let max_line = self.client_max_line;
        self.active().tally.outcome(outcome);
        let out = self.out();
        let begin = out.len();
        encode(out);
        cut_text(out, begin, max_line);
    }
}

/// Cuts the text of the line that begins at `begin`, so that the line has at most `max_line` bytes,
/// LF included.
pub(super) fn cut_text(out: &mut Vec<u8>, begin: usize, max_line: usize) {
    if out.len() - begin > max_line {
        out.truncate(begin + max_line - 1);
        let cut = out.get(begin..).map_or(0, torn_end);
        out.truncate(out.len() - cut);
        out.push(b'\n');
        give_back(out, max_line);
    }
}

/// Frees the room of a line over the limit. A handler's reply may have any length.
fn give_back(out: &mut Vec<u8>, max_line: usize) {
    out.shrink_to(out.len().saturating_add(max_line).saturating_mul(2));
}

/// The number of bytes to remove from the end of a cut line: a part of a character, half of a
/// stuffed pair, or an SP with nothing after it.
fn torn_end(line: &[u8]) -> usize {
    let tail = &line[line.len().saturating_sub(4)..];
    let character = tail.utf8_chunks().last().map_or(0, |chunk| chunk.invalid().len());
    let half_pair = usize::from(tail.last() == Some(&0x10));
    let left = &line[..line.len() - character - half_pair];
    let spaces = left.iter().rev().take_while(|&&byte| byte == b' ').count();
    character + half_pair + spaces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_ends_at_a_whole_character() {
        for (line, max, cut) in [
            (&b"1 no x abc\n"[..], 11, &b"1 no x abc\n"[..]),
            (b"1 no x abc\n", 10, b"1 no x ab\n"),
            (b"1 no x a\x10J\n", 10, b"1 no x a\n"),
            ("1 no x a\u{e9}\n".as_bytes(), 10, b"1 no x a\n"),
        ] {
            let mut out = line.to_vec();
            cut_text(&mut out, 0, max);
            assert_eq!(out, cut);
        }
    }
}
