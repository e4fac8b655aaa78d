//! What other writers do to scalars: numbers and booleans in quotes, null for an empty collection,
//! the ordinal of an enumeration for its name.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A number, also one in quotes.
pub fn number<'de, D: Deserializer<'de>, N>(deserializer: D) -> Result<N, D::Error>
where
    N: TryFrom<i64> + FromStr,
{
    struct Number<N>(PhantomData<N>);

    impl<N: TryFrom<i64> + FromStr> Visitor<'_> for Number<N> {
        type Value = N;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<N, E> {
            N::try_from(value).map_err(|_| E::custom(format_args!("{value} is out of range")))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<N, E> {
            let value =
                i64::try_from(value).map_err(|_| E::custom(format_args!("{value} is out of range")))?;
            self.visit_i64(value)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<N, E> {
            text.trim().parse().map_err(|_| E::custom("a text that is no integer"))
        }
    }

    deserializer.deserialize_any(Number(PhantomData))
}

/// A boolean, also as 0, 1 or a text.
pub fn boolean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Boolean;

    impl Visitor<'_> for Boolean {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a boolean")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            match text {
                "true" | "1" => Ok(true),
                "false" | "0" | "" => Ok(false),
                _ => Err(E::custom("a text that is no boolean")),
            }
        }

        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }

    deserializer.deserialize_any(Boolean)
}

/// Anything; null is the default value.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Declares an enumeration that is written by name and read by name or ordinal.
macro_rules! enumeration {
    ($(#[$doc:meta])* pub enum $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $wire:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            const ALL: &[(Self, &str)] = &[$((Self::$variant, $wire),)*];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $wire,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::protocol::body::lenient::name_or_ordinal(deserializer, Self::ALL)
            }
        }
    };
}
pub(crate) use enumeration;

/// One of `all`, by name or by its place.
pub fn name_or_ordinal<'de, D: Deserializer<'de>, T: Copy>(
    deserializer: D,
    all: &'static [(T, &'static str)],
) -> Result<T, D::Error> {
    struct Enumeration<T: 'static>(&'static [(T, &'static str)]);

    impl<T: Copy> Visitor<'_> for Enumeration<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("one of")?;
            self.0.iter().try_for_each(|(_, name)| write!(f, " {name}"))
        }

        fn visit_u64<E: Error>(self, ordinal: u64) -> Result<T, E> {
            let found = usize::try_from(ordinal).ok().and_then(|index| self.0.get(index));
            found
                .map(|(value, _)| *value)
                .ok_or_else(|| E::custom(format_args!("no value has number {ordinal}")))
        }

        fn visit_i64<E: Error>(self, ordinal: i64) -> Result<T, E> {
            self.visit_u64(u64::try_from(ordinal).unwrap_or(u64::MAX))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            if let Ok(ordinal) = text.parse() {
                return self.visit_u64(ordinal);
            }
            let found = self.0.iter().find(|(_, name)| *name == text);
            found.map(|(value, _)| *value).ok_or_else(|| E::custom("an unknown name"))
        }
    }

    deserializer.deserialize_any(Enumeration(all))
}
