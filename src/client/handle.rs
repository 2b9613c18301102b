//! What keeps a client's connection open.

use crate::{client::shared::Shared, error::ConnectionError, sync::Arc};

/// The last one to go closes the connection.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.act(|core, step| core.begin_close(ConnectionError::Closed, step));
    }
}
