//! A secret as it may rest or travel: sealed.

use std::fmt;

/// Sealed bytes (AEAD, see `service::seal`), in base64. Opened only by a holder of the master key.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct SealedSecret(String);

impl SealedSecret {
    /// Wraps what the sealer produced.
    #[must_use]
    pub fn from_base64(text: String) -> Self {
        SealedSecret(text)
    }

    /// The sealed form, to be opened or stored.
    #[must_use]
    pub fn as_base64(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealedSecret(..)")
    }
}
