//! Acks: which notifications a client has handled (docs/protocol/acks.md, section 16).

use crate::{
    protocol::{Code, Line, Mark, Position, Topic},
    server::core::{
        arguments::{Refusal, no_attributes},
        connection::{Connection, Taken},
    },
};

const USAGE: &str = "usage: /ack TOPIC POSITION";

impl Connection {
    /// Processes an `/ack`, with or without an id.
    pub(super) fn ack(&mut self, line: &Line<'_>) -> Result<Taken, Refusal> {
        no_attributes(line)?;
        let (topic, ack) = arguments(line).ok_or((Code::BAD_ARGUMENTS, USAGE.to_owned()))?;
        let acked = match &mut self.subscriptions {
            Some(subscriptions) => subscriptions.ack(topic.as_str(), ack),
            None => Ok(()),
        };
        match acked {
            Ok(()) => self.ack_taken(line.mark),
            Err(next) => self.faulty_ack(line.mark, next),
        }
        Ok(Taken::Yes)
    }

    fn ack_taken(&mut self, mark: Mark) {
        if let Mark::Id(id) = mark {
            self.answer_ok(id, format_args!(""));
        }
    }

    /// Answers an ack of a notification that was never sent. This is a violation of the protocol.
    fn faulty_ack(&mut self, mark: Mark, next: Position) {
        let text = format_args!("next is {next}");
        match mark {
            Mark::Id(id) => {
                self.refuse(id, &Code::BAD_ACK, text);
                self.violation();
            }
            // `notice_error` also counts the violation.
            Mark::Reserved => self.notice_error(None, &Code::BAD_ACK, text),
        }
    }
}

fn arguments(line: &Line<'_>) -> Option<(Topic, Position)> {
    let plain = line.rest.plain();
    let (topic, position) = std::str::from_utf8(&plain).ok()?.split_once(' ')?;
    Some((Topic::new(topic).ok()?, position.parse().ok()?))
}
