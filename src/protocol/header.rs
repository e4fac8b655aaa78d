//! Typed headers: what a request or response says in its extension fields (remoting-protocol §2.5).
//!
//! A header is a plain struct, declared with [`header!`](crate::header) beside the wire name of each
//! field. Fields of type `Option` may be absent; fields with `= value` are absent when they have
//! that value's meaning; all others must be there.

use std::fmt;

use staticfire_transport::{Command, ExtFields};

/// Extension fields with a meaning.
pub trait Header: Sized {
    /// Reads the fields; unknown ones are ignored.
    ///
    /// # Errors
    /// [`HeaderError`] names the field that is missing or not understood.
    fn read(fields: &ExtFields) -> Result<Self, HeaderError>;

    /// Adds the fields, leaving out what is absent.
    fn write(&self, fields: &mut ExtFields);

    /// The command with these fields added.
    #[must_use]
    fn on(&self, mut command: Command) -> Command {
        self.write(&mut command.ext);
        command
    }
}

/// Reads the header of a command.
///
/// # Errors
/// As [`Header::read`].
pub fn read<H: Header>(command: &Command) -> Result<H, HeaderError> {
    H::read(&command.ext)
}

/// A value that travels as text in one extension field.
pub trait Field: Sized {
    /// What the text should have been, for errors.
    const EXPECTED: &'static str;

    /// Understands the text of a peer.
    fn parse(text: &str) -> Option<Self>;

    /// Adds the value under `name`.
    fn push(&self, name: &'static str, fields: &mut ExtFields);
}

impl Field for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn push(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, self.as_str());
    }
}

impl Field for i32 {
    const EXPECTED: &'static str = "a 32-bit integer";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn push(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, self);
    }
}

impl Field for i64 {
    const EXPECTED: &'static str = "a 64-bit integer";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn push(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, self);
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "true or false";

    /// Java writes `true` and `false`, the C++ client `1` and `0`.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "1" => Some(true),
            "0" => Some(false),
            _ if text.eq_ignore_ascii_case("true") => Some(true),
            _ if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    fn push(&self, name: &'static str, fields: &mut ExtFields) {
        fields.push(name, if *self { "true" } else { "false" });
    }
}

/// How a declared field behaves when it is absent.
pub trait Presence<T>: Sized {
    /// Reads the field `name`.
    ///
    /// # Errors
    /// [`HeaderError`] when it must be there and is not, or is not understood.
    fn read(fields: &ExtFields, name: &'static str) -> Result<Self, HeaderError>;

    /// Writes it unless it is absent.
    fn write(&self, fields: &mut ExtFields, name: &'static str);
}

impl<T: Field> Presence<T> for T {
    fn read(fields: &ExtFields, name: &'static str) -> Result<Self, HeaderError> {
        optional(fields, name)?.ok_or(HeaderError::Missing { field: name })
    }

    fn write(&self, fields: &mut ExtFields, name: &'static str) {
        self.push(name, fields);
    }
}

impl<T: Field> Presence<Option<T>> for Option<T> {
    fn read(fields: &ExtFields, name: &'static str) -> Result<Self, HeaderError> {
        optional(fields, name)
    }

    fn write(&self, fields: &mut ExtFields, name: &'static str) {
        if let Some(value) = self {
            value.push(name, fields);
        }
    }
}

/// Reads a field that may be absent.
///
/// # Errors
/// [`HeaderError::NotUnderstood`].
pub fn optional<T: Field>(fields: &ExtFields, name: &'static str) -> Result<Option<T>, HeaderError> {
    let Some(text) = fields.get(name) else { return Ok(None) };
    match T::parse(text) {
        Some(value) => Ok(Some(value)),
        None => Err(HeaderError::NotUnderstood { field: name, found: excerpt(text), expected: T::EXPECTED }),
    }
}

/// The first 40 characters, so that an error never carries a megabyte.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Why a header was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// A field that must be there is not.
    Missing {
        /// Its wire name.
        field: &'static str,
    },
    /// A field's text is not of its type.
    NotUnderstood {
        /// Its wire name.
        field: &'static str,
        /// The first 40 characters of its text.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { field } => write!(f, "the field `{field}` is missing"),
            Self::NotUnderstood { field, found, expected } => {
                write!(f, "the field `{field}` is {found:?}, should be {expected}")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// Declares a header struct with the wire name of each field.
///
/// ```
/// use staticfire::protocol::header::Header;
/// use staticfire::transport::ExtFields;
///
/// staticfire::header! {
///     /// Asks for the bounds of a queue.
///     pub struct Bounds {
///         /// The topic's name.
///         "topic" topic: String,
///         /// Number of the queue.
///         "queueId" queue: i32,
///         /// Count only confirmed messages.
///         "committed" committed: bool = true,
///     }
/// }
///
/// let mut fields = ExtFields::default();
/// Bounds { topic: "orders".into(), queue: 3, committed: true }.write(&mut fields);
/// assert_eq!(fields.get("queueId"), Some("3"));
/// assert_eq!(Bounds::read(&fields).unwrap().topic, "orders");
/// ```
#[macro_export]
macro_rules! header {
    ($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$field_doc:meta])* $wire:literal $field:ident: $type:ty $(= $default:expr)?,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::protocol::header::Header for $name {
            #[allow(unused_variables, reason = "a header may have no field")]
            fn read(
                fields: &$crate::transport::ExtFields,
            ) -> Result<Self, $crate::protocol::header::HeaderError> {
                Ok(Self { $($field: $crate::header!(@read fields, $wire, $type $(, $default)?),)* })
            }

            #[allow(unused_variables, reason = "a header may have no field")]
            fn write(&self, fields: &mut $crate::transport::ExtFields) {
                $($crate::protocol::header::Presence::<$type>::write(&self.$field, fields, $wire);)*
            }
        }
    };
    (@read $fields:ident, $wire:literal, $type:ty) => {
        <$type as $crate::protocol::header::Presence<$type>>::read($fields, $wire)?
    };
    (@read $fields:ident, $wire:literal, $type:ty, $default:expr) => {
        $crate::protocol::header::optional::<$type>($fields, $wire)?.unwrap_or_else(|| $default.into())
    };
}
