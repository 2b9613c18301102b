//! docs/protocol/vectors.json.

use serde::Deserialize;

use super::{data, hex};

#[derive(Deserialize)]
pub struct Vectors {
    pub body: Vec<BodyVector>,
    pub lines: Vec<LineVector>,
}

/// A body on the wire, and what it stands for.
#[derive(Deserialize)]
pub struct BodyVector {
    pub name: String,
    verdict: String,
    plain: Option<String>,
    hex: String,
}

/// A line without its LF.
#[derive(Deserialize)]
pub struct LineVector {
    pub name: String,
    /// `request`, `reply` or `first`.
    pub direction: String,
    verdict: String,
    hex: String,
    pub remark: String,
}

pub fn vectors() -> Vectors {
    data("vectors.json")
}

impl BodyVector {
    pub fn wire(&self) -> Vec<u8> {
        hex(&self.hex)
    }

    /// What it decodes to; `None` if that is a fault.
    pub fn plain(&self) -> Option<Vec<u8>> {
        let plain = self.plain.as_deref().map(hex);
        assert_eq!(plain.is_some(), is_ok(&self.name, &self.verdict), "{}", self.name);
        plain
    }
}

impl LineVector {
    pub fn bytes(&self) -> Vec<u8> {
        hex(&self.hex)
    }

    pub fn is_ok(&self) -> bool {
        is_ok(&self.name, &self.verdict)
    }
}

fn is_ok(name: &str, verdict: &str) -> bool {
    assert!(matches!(verdict, "ok" | "bad"), "{name}: {verdict}");
    verdict == "ok"
}
