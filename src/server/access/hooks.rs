//! The application's authenticator and authorizer.

use std::fmt;

use crate::{
    protocol::Code,
    server::access::{
        authenticator::{Authenticator, announced_schemes},
        authorizer::Authorizer,
    },
    sync::Arc,
};

/// A hook that is not set has no cost.
#[derive(Clone, Default)]
pub(in crate::server) struct Hooks {
    pub(in crate::server) authenticator: Option<Arc<dyn Authenticator>>,
    /// The schemes of the authenticator.
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

/// The hooks are not shown, because they belong to the application and may hold secrets.
impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("schemes", &self.schemes)
            .field("authorizer", &self.authorizer.is_some())
            .finish_non_exhaustive()
    }
}
