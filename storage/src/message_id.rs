//! The offset message id: where a message is stored, as text (store-format 4).
//!
//! ```text
//! store host address (4 or 16 bytes) | port i32 | physical offset i64
//! ```
//! in hexadecimal, capital letters: 32 or 56 digits.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::position::PhysicalOffset;

/// Digits of an id with an IPv6 address.
const TEXT_LEN_MAX: usize = 56;
const DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Names one stored message by the broker that stored it and its position there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The store host in the record.
    pub host: SocketAddr,
    /// The position of the record.
    pub physical: PhysicalOffset,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut text, mut len) = ([0; TEXT_LEN_MAX], 0);
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                text[len] = DIGITS[usize::from(byte >> 4)];
                text[len + 1] = DIGITS[usize::from(byte & 15)];
                len += 2;
            }
        };
        match self.host.ip() {
            IpAddr::V4(ip) => add(&ip.octets()),
            IpAddr::V6(ip) => add(&ip.octets()),
        }
        add(&u32::from(self.host.port()).to_be_bytes());
        add(&self.physical.0.to_be_bytes());
        f.write_str(std::str::from_utf8(&text[..len]).expect("digits are ASCII"))
    }
}

/// The text is not an offset message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMessageId;

impl fmt::Display for NotAMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an offset message id is 32 or 56 hexadecimal digits: host, port (at most FFFF), offset")
    }
}

impl std::error::Error for NotAMessageId {}

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, NotAMessageId> {
        let ip_len = match text.len() {
            32 => 8,
            56 => 32,
            _ => return Err(NotAMessageId),
        };
        // `from_str_radix` takes a sign, an id does not.
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAMessageId);
        }
        let number = |digits: &str| u128::from_str_radix(digits, 16).map_err(|_| NotAMessageId);
        let (ip, rest) = text.split_at(ip_len);
        let (port, physical) = rest.split_at(8);
        let ip = number(ip)?;
        let ip = match u32::try_from(ip) {
            Ok(v4) if ip_len == 8 => IpAddr::V4(v4.into()),
            _ => IpAddr::V6(ip.into()),
        };
        let port = u16::try_from(number(port)?).map_err(|_| NotAMessageId)?;
        let physical = i64::try_from(number(physical)?).map_err(|_| NotAMessageId)?;
        Ok(Self { host: SocketAddr::new(ip, port), physical: PhysicalOffset(physical.unsigned_abs()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_else_is_refused() {
        let good = "0A00000100002A9F0000000000000000";
        assert!(good.parse::<MessageId>().is_ok());
        assert!(good.to_lowercase().parse::<MessageId>().is_ok());
        for bad in [
            "",
            "0A",
            "+A00000100002A9F0000000000000000",
            "0A00000100012A9F0000000000000000",
            "0A00000100002A9FF000000000000000",
            "0A00000100002A9F000000000000000é",
        ] {
            assert_eq!(bad.parse::<MessageId>(), Err(NotAMessageId), "{bad:?}");
        }
    }
}
