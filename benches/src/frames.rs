//! Just enough of the protocol's frames for a load generator, which knows what it gets.
//!
//! ```text
//! 0            4                 8                  8 + n
//! +------------+-----------------+------------------+--------+
//! | length u32 | header n u32    | header (JSON)    | body   |
//! +------------+-----------------+------------------+--------+
//! ```
//! The length counts what follows it; the upper byte of the header's length is 0 for JSON.

/// The topic that everything is sent to.
pub const TOPIC: &str = "BenchTopic";
/// Opaques start here, so that all have the same number of digits.
pub const FIRST_OPAQUE: u64 = 1_000_000_000;

/// The frame of a send (code 310) as the Java client writes it, with a place for the opaque.
#[derive(Clone, Debug)]
pub struct SendFrame {
    bytes: Vec<u8>,
    opaque_at: usize,
}

impl SendFrame {
    /// A send of `body` to queue `queue` of [`TOPIC`].
    ///
    /// # Panics
    /// When the frame would exceed 4 GiB.
    #[must_use]
    pub fn new(queue: u32, body: &[u8]) -> Self {
        let before = format!(
            concat!(
                r#"{{"code":310,"extFields":{{"a":"bench","b":"{}","c":"TBW102","d":"4","e":"{}","f":"0","#,
                r#""g":"1700000000000","h":"0","i":"UNIQ_KEY\u00017F0000010001000000000000000000{:02}\u0002"#,
                r#"WAIT\u0001true\u0002","j":"0","k":"false","m":"false","n":"broker-a"}},"#,
                r#""flag":0,"language":"JAVA","opaque":"#
            ),
            TOPIC, queue, queue
        );
        let after = r#","serializeTypeCurrentRPC":"JSON","version":479}"#;
        let header = before.len() + FIRST_OPAQUE.to_string().len() + after.len();
        let len = |n: usize| u32::try_from(n).expect("a frame is shorter than 4 GiB").to_be_bytes();
        let mut bytes = Vec::with_capacity(8 + header + body.len());
        bytes.extend_from_slice(&len(4 + header + body.len()));
        bytes.extend_from_slice(&len(header));
        let opaque_at = bytes.len() + before.len();
        bytes.extend_from_slice(before.as_bytes());
        bytes.extend_from_slice(FIRST_OPAQUE.to_string().as_bytes());
        bytes.extend_from_slice(after.as_bytes());
        bytes.extend_from_slice(body);
        Self { bytes, opaque_at }
    }

    /// Adds the frame with this number, counted from 0, to `out`.
    pub fn write(&self, number: u64, out: &mut Vec<u8>) {
        let at = out.len() + self.opaque_at;
        out.extend_from_slice(&self.bytes);
        let mut rest = FIRST_OPAQUE + number;
        for digit in out[at..at + 10].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
    }
}

/// A complete frame at the start of `bytes`, as header, body and the length of all; `None`: not yet.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let number = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (len, header) = (number(0)?, number(4)? & 0x00FF_FFFF);
    let frame = bytes.get(8..4 + len)?;
    let (header, body) = frame.split_at_checked(header)?;
    Some((header, body, 4 + len))
}

/// Walks the names and values of a JSON header in one pass, whatever object they are in. Values come
/// as they stand, escapes and all.
pub fn fields<'a>(header: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) {
    let mut at = 0;
    while let Some(name) = text(header, &mut at) {
        // Behind the colon: a text, a number, or an object whose names come next.
        at += 1;
        match header.get(at) {
            Some(b'"') => each(name, text(header, &mut at).unwrap_or_default()),
            Some(b'{') => at += 1,
            _ => {
                let rest = header.get(at..).unwrap_or_default();
                let len = rest.iter().position(|byte| matches!(byte, b',' | b'}')).unwrap_or(rest.len());
                each(name, &rest[..len]);
                at += len;
            }
        }
    }
}

/// The next text at or behind `at`, which moves behind it.
fn text<'a>(header: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let start = *at + header.get(*at..)?.iter().position(|byte| *byte == b'"')? + 1;
    let mut end = start;
    loop {
        match header.get(end)? {
            b'"' => break,
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    *at = end + 1;
    Some(&header[start..end])
}

/// The number in decimal digits, or 0.
#[must_use]
pub fn number(digits: &[u8]) -> i64 {
    let negative = digits.first() == Some(&b'-');
    let digits = if negative { &digits[1..] } else { digits };
    let value = digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_i64, |value, byte| value.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')));
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use staticfire::protocol::headers::SendRequest;
    use staticfire_transport::FrameDecoder;

    #[test]
    fn the_frame_is_what_our_own_decoder_reads() {
        let mut bytes = Vec::new();
        SendFrame::new(3, b"hello").write(17, &mut bytes);
        let mut decoder = FrameDecoder::new();
        decoder.push(&bytes);
        let command = decoder.next().unwrap().unwrap();
        assert_eq!((command.code, command.opaque), (310, 1_000_000_017));
        assert_eq!(command.body.to_bytes(), "hello");
        let send = SendRequest::read(310, &command.ext).unwrap();
        assert_eq!((send.topic, send.queue_id), (TOPIC, 3));
        assert_eq!(decoder.pending(), 0);

        let (header, body, len) = split(&bytes).unwrap();
        assert_eq!((body, len), (&b"hello"[..], bytes.len()));
        let mut found = Vec::new();
        fields(header, |name, value| found.push((name, value)));
        assert_eq!(found.len(), 13 + 6, "every field of both objects");
        assert!(found.contains(&(b"opaque", b"1000000017")));
        assert!(split(&bytes[..bytes.len() - 1]).is_none());
    }
}
