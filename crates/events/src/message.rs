//! One table per family of messages: variant, type name, payload, address.

/// Declares a family of messages.
///
/// Each row is `Variant(Payload) = "type.name", at (instance, branch[, id])`, where the address names
/// payload fields that become the last tokens of the subject. Rows generate the enum, its type names, its
/// decoder, its subject and its schemas, so that a message cannot be in one and not in another.
macro_rules! messages {
    (
        $(#[$doc:meta])* $family:ident {
            $( $(#[$row_doc:meta])* $variant:ident($payload:ty) = $name:literal, at ($($field:ident),+); )+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        #[serde(untagged)]
        pub enum $family {
            $( $(#[$row_doc])* $variant($payload), )+
        }

        impl $family {
            /// The type names of the family, `backup.completed`, in the order of the table.
            pub const TYPES: &'static [&'static str] = &[$($name),+];

            /// The type name, as it stands in the subject: `backup.completed`.
            #[must_use]
            pub fn type_name(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            /// The last tokens of the subject: instance, and branch and id where it has them.
            #[must_use]
            pub fn address(&self) -> Vec<String> {
                match self { $( Self::$variant(payload) => vec![$( payload.$field.to_string() ),+], )+ }
            }

            /// The payload as JSON.
            ///
            /// # Errors
            /// Never for the types of this crate; the signature is serde's.
            pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
                match self { $( Self::$variant(payload) => serde_json::to_vec(payload), )+ }
            }

            /// Reads a payload of the named type; `None` if the family has no such type.
            ///
            /// # Errors
            /// If the payload is not of the type's form.
            pub fn from_json(type_name: &str, payload: &[u8]) -> Option<serde_json::Result<Self>> {
                match type_name {
                    $( $name => Some(serde_json::from_slice(payload).map(Self::$variant)), )+
                    _ => None,
                }
            }

            /// The JSON Schema of every type.
            #[must_use]
            pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
                vec![$( ($name, schemars::schema_for!($payload)) ),+]
            }
        }
    };
}
pub(crate) use messages;
