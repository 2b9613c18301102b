//! An offer: a flat to let, as in the file and on the wire.

use std::{fmt, num::NonZeroU64};

use serde::{Deserialize, Serialize};

/// A classified ad, one line of JSON: `{"id":43,"title":"Loft","rent":700}`. Fields that are not
/// named here are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Its permanent id.
    pub(crate) id: NonZeroU64,
    #[serde(flatten)]
    pub(crate) flat: Flat,
}

/// The content of an offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flat {
    pub(crate) title: String,
    /// In euros a month.
    pub(crate) rent: u32,
    /// In square metres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) area: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) city: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
}

/// The fields of an offer in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) id: NonZeroU64,
    pub(crate) title: String,
    pub(crate) rent: u32,
}

/// The payload of a notification on `offers`: `{"id":43}`, or `{"id":43,"changed":true}` if the
/// offer was known before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct News {
    pub(crate) id: NonZeroU64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) changed: bool,
}

impl From<&Offer> for Summary {
    fn from(offer: &Offer) -> Self {
        Self { id: offer.id, title: offer.flat.title.clone(), rent: offer.flat.rent }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>5}  {:>5} €  {}", self.id, self.rent, Shown(&self.title))
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Summary::from(self).fmt(f)?;
        if let Some(city) = &self.flat.city {
            write!(f, ", {}", Shown(city))?;
        }
        if let Some(area) = self.flat.area {
            write!(f, ", {area} m²")?;
        }
        match &self.flat.description {
            Some(description) => write!(f, "\n{:16}{}", "", Shown(description)),
            None => Ok(()),
        }
    }
}

/// Makes text of a peer safe for a terminal.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char.is_control() {
            true => write!(f, "{}", char.escape_default()),
            false => write!(f, "{char}"),
        })
    }
}
