//! The cause of an error: a text, and the original error where it can be shared.

use std::{error::Error, fmt, io};

use crate::{sync::Arc, tcp::AtAddress};

/// Why other code failed: its text, and its error where that can be kept. Compared by its text.
///
/// An error of the system, of TLS and of a codec is kept, and is the
/// [`source`](std::error::Error::source) of the error that has this cause. Of an error of your own
/// transport only the text is kept, because a failed connection hands the same error to many tasks.
#[derive(Clone)]
pub struct Cause {
    text: Box<str>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Cause {
    /// The text of the error.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }

    /// The error of a codec. It goes to the task that called the codec, and to no other.
    pub(crate) fn of_codec(error: Box<dyn Error + Send + Sync>) -> Self {
        Self { text: error.to_string().into(), source: Some(error.into()) }
    }

    /// The error of a transport, which is kept if it is the system's.
    pub(super) fn of_io(error: io::Error) -> Self {
        let text = error.to_string().into();
        let error = match error.get_ref().is_some_and(|inner| inner.is::<AtAddress>()) {
            true => error.downcast::<AtAddress>().map_or_else(|error| error, AtAddress::into_inner),
            false => error,
        };
        let is_own = error.get_ref().is_none();
        Self { text, source: is_own.then(|| Arc::new(error) as _) }
    }

    /// The error of TLS, if it is TLS that failed. It is kept unless it carries an error of a
    /// verifier of your own.
    #[cfg(feature = "tls")]
    pub(super) fn of_tls(error: &io::Error) -> Option<Self> {
        use tokio_rustls::rustls::{CertificateError, Error as TlsError};
        let fault: &TlsError = error.get_ref()?.downcast_ref()?;
        let text = match fault {
            TlsError::InvalidMessage(_) => format!("{fault}; does the server speak TLS?"),
            _ => fault.to_string(),
        };
        let is_own = !matches!(
            fault,
            TlsError::Other(_) | TlsError::InvalidCertificate(CertificateError::Other(_))
        );
        let source = is_own.then(|| Arc::new(fault.clone()) as _);
        Some(Self { text: text.into(), source })
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        Self { text: text.into(), source: None }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cause {}
