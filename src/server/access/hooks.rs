//! What an application puts before its methods and topics.

use std::fmt;

use crate::{
    protocol::Code,
    server::access::{
        authenticator::{Authenticator, announced_schemes},
        authorizer::Authorizer,
    },
    sync::Arc,
};

/// Neither costs anything where it is not set.
#[derive(Clone, Default)]
pub(in crate::server) struct Hooks {
    pub(in crate::server) authenticator: Option<Arc<dyn Authenticator>>,
    /// What the authenticator understands.
    pub(in crate::server) schemes: Vec<Code>,
    pub(in crate::server) authorizer: Option<Arc<dyn Authorizer>>,
}

impl Hooks {
    pub(in crate::server) fn set_authenticator(&mut self, authenticator: impl Authenticator) {
        self.schemes = announced_schemes(&authenticator);
        self.authenticator = Some(Arc::new(authenticator));
    }

    pub(in crate::server) fn set_authorizer(&mut self, authorizer: impl Authorizer) {
        self.authorizer = Some(Arc::new(authorizer));
    }
}

/// The hooks are the application's, and may hold secrets.
impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("schemes", &self.schemes)
            .field("authorizer", &self.authorizer.is_some())
            .finish_non_exhaustive()
    }
}
