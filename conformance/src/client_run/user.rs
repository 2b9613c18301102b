//! The user of the client in a case: a testee, or a person at the keyboard.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use crate::client_run::{testee::Testee, text::shown};

pub(crate) enum User {
    Testee(Box<Testee>),
    /// Is told what to do with the client, and what it should do, and sees for themself.
    Person,
}

impl User {
    pub(crate) fn is_testee(&self) -> bool {
        matches!(self, Self::Testee(_))
    }

    /// Passes events on; a person reports none.
    pub(crate) fn report_to<T: Send + 'static>(
        &mut self,
        events: UnboundedSender<T>,
        wrap: fn(Option<Vec<u8>>) -> T,
    ) {
        if let Self::Testee(testee) = self {
            testee.report_to(events, wrap);
        }
    }

    pub(crate) async fn tell(&mut self, command: &[u8], patience: Duration) -> Result<(), String> {
        match self {
            Self::Testee(testee) => testee.tell(command, patience).await,
            Self::Person => {
                println!("  now let the client: {}", shown(command));
                Ok(())
            }
        }
    }

    /// Whether a person was told to look for these events.
    pub(crate) fn is_asked(&self, events: &[String]) -> bool {
        if let Self::Person = self {
            println!("  it should report: {}", events.join(", "));
        }
        !self.is_testee()
    }

    pub(crate) fn end_commands(&mut self) {
        if let Self::Testee(testee) = self {
            testee.end();
        }
    }

    pub(crate) async fn end(self) {
        if let Self::Testee(testee) = self {
            testee.kill().await;
        }
    }
}
