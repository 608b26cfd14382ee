//! What went wrong, for our log and for nobody else.

use std::fmt;

/// A failure whose text is for our log alone.
#[derive(Debug)]
pub struct Internal(Box<dyn std::error::Error + Send + Sync>);

impl Internal {
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Internal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
