//! Who a peer is.

use std::{
    any::Any,
    fmt,
    hash::{Hash, Hasher},
};

use crate::sync::Arc;

/// Who a peer is, as an [`Authenticator`](crate::server::Authenticator) or the transport has
/// established; cheap to clone. An extractor.
///
/// Principals are compared by name only. Without an authenticator or such a transport, a peer is
/// anonymous.
///
/// ```
/// use bellwire::server::Principal;
///
/// #[derive(Debug, PartialEq)]
/// struct Tenant(u32);
///
/// let ada = Principal::new("ada").with_value(Tenant(7));
/// assert_eq!(ada.name(), Some("ada"));
/// assert_eq!(ada.value::<Tenant>(), Some(&Tenant(7)));
/// assert!(Principal::anonymous().is_anonymous());
/// ```
#[derive(Clone, Default)]
pub struct Principal(Option<Arc<Identity>>);

struct Identity {
    name: Box<str>,
    value: Option<Arc<dyn Any + Send + Sync>>,
}

/// The anonymous principal, shared by all sessions without another one.
pub(in crate::server) static ANONYMOUS: Principal = Principal(None);

impl Principal {
    /// A principal with a name, which shows in logs.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self(Some(Arc::new(Identity { name: name.into(), value: None })))
    }

    /// The anonymous principal.
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// Attaches a value of the application, such as a user's record or roles. `Debug` does not show
    /// it. A second value replaces the first. Without effect on an anonymous principal.
    #[must_use]
    pub fn with_value<V: Any + Send + Sync>(self, value: V) -> Self {
        let attach = |identity: Arc<Identity>| {
            let value: Arc<dyn Any + Send + Sync> = Arc::new(value);
            Arc::new(Identity { name: identity.name.clone(), value: Some(value) })
        };
        Self(self.0.map(attach))
    }

    /// The name; `None` for an anonymous peer.
    ///
    /// Do not compare two `Option`s: `None == None` would make all anonymous peers one user. Return
    /// early for an anonymous peer, or compare with `Some(name)`.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref().map(|identity| &*identity.name)
    }

    /// The value attached, if it is of this type.
    pub fn value<V: Any>(&self) -> Option<&V> {
        self.0.as_ref()?.value.as_ref()?.downcast_ref()
    }

    /// Whether the peer is unknown.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }
}

impl PartialEq for Principal {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Principal {}

impl Hash for Principal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.debug_tuple("Principal").field(&name).finish(),
            None => f.write_str("Principal"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_equal_by_name() {
        let plain = Principal::new("ada");
        let valued = plain.clone().with_value("a secret");
        assert_eq!(plain, valued);
        assert_ne!(plain, Principal::anonymous());
        assert_eq!(format!("{valued:?}"), "Principal(\"ada\")");
        assert_eq!((valued.value::<&str>(), valued.value::<u8>()), (Some(&"a secret"), None));
        assert!(Principal::anonymous().with_value(1).is_anonymous());
    }
}
