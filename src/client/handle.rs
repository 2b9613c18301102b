//! The handle that keeps a client's connection open.

use crate::{client::shared::Shared, error::ConnectionError, sync::Arc};

/// When the last handle is dropped, the connection is closed.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.act(|core, step| core.begin_close(ConnectionError::Closed, step));
    }
}
