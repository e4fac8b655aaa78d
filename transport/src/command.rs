//! One remoting command: a request or an answer, as the code above the frames sees it.

use std::fmt;

use bytes::Bytes;

pub use crate::ext_fields::ExtFields;

/// The version we state: V5_3_3. Clients refuse non-tag subscriptions below 232
/// (remoting-protocol §2.3).
pub const VERSION: i32 = 479;

/// Flag bit 0: the command answers a request.
pub const RESPONSE: i32 = 1;

/// Flag bit 1: the receiver must not answer, not even on error.
pub const ONE_WAY: i32 = 2;

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// What is asked, or how it went (0: success).
    pub code: i32,
    /// The sender's language.
    pub language: Language,
    /// The sender's version, an ordinal of RocketMQ's releases.
    pub version: i32,
    /// Pairs an answer with its request. [`Connection::call`](crate::Connection::call) sets it.
    pub opaque: i32,
    /// [`RESPONSE`] and [`ONE_WAY`]; other bits are carried along.
    pub flag: i32,
    /// Text for people, mostly of an error.
    pub remark: Option<String>,
    /// Named header fields.
    pub ext: ExtFields,
    /// What follows the header.
    pub body: Body,
    /// How the header is written. An answer takes over its request's.
    pub encoding: HeaderEncoding,
}

impl Command {
    /// A request that wants an answer, in JSON.
    #[must_use]
    pub const fn request(code: i32) -> Self {
        Self {
            code,
            language: Language::Java,
            version: VERSION,
            opaque: 0,
            flag: 0,
            remark: None,
            ext: ExtFields::new(),
            body: Body::empty(),
            encoding: HeaderEncoding::Json,
        }
    }

    /// A request that nobody answers.
    #[must_use]
    pub const fn one_way(code: i32) -> Self {
        let mut command = Self::request(code);
        command.flag = ONE_WAY;
        command
    }

    /// The answer to this request: its `opaque` and encoding, the response bit set.
    #[must_use]
    pub const fn answer(&self, code: i32) -> Self {
        let mut command = Self::request(code);
        command.opaque = self.opaque;
        command.flag = RESPONSE;
        command.encoding = self.encoding;
        command
    }

    /// True for an answer.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flag & RESPONSE != 0
    }

    /// True for a request that must not be answered.
    #[must_use]
    pub const fn is_one_way(&self) -> bool {
        self.flag & ONE_WAY != 0
    }

    /// The same with the header field `name` set to `value`.
    #[must_use]
    pub fn with_ext(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.ext.push(name, value);
        self
    }

    /// The same with a remark.
    #[must_use]
    pub fn with_remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = Some(remark.into());
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }
}

/// How a header is written; the high byte of the frame's second word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeaderEncoding {
    /// JSON, type 0. What every client understands.
    #[default]
    Json,
    /// RocketMQ's binary header, type 1. Codes must fit 16 bits.
    Binary,
}

/// The language a peer says it is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Language {
    #[default]
    Java = 0,
    Cpp,
    DotNet,
    Python,
    Delphi,
    Erlang,
    Ruby,
    Other,
    Http,
    Go,
    Php,
    Oms,
    Rust,
    NodeJs,
    /// A name or number that RocketMQ does not know either. Written as `OTHER`.
    Unknown,
}

/// In the order of the numbers.
const LANGUAGES: [(Language, &str); 14] = [
    (Language::Java, "JAVA"),
    (Language::Cpp, "CPP"),
    (Language::DotNet, "DOTNET"),
    (Language::Python, "PYTHON"),
    (Language::Delphi, "DELPHI"),
    (Language::Erlang, "ERLANG"),
    (Language::Ruby, "RUBY"),
    (Language::Other, "OTHER"),
    (Language::Http, "HTTP"),
    (Language::Go, "GO"),
    (Language::Php, "PHP"),
    (Language::Oms, "OMS"),
    (Language::Rust, "RUST"),
    (Language::NodeJs, "NODE_JS"),
];

impl Language {
    /// The language with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        LANGUAGES.get(usize::from(code)).map_or(Self::Unknown, |(language, _)| *language)
    }

    /// The language with this name, as RocketMQ's enumeration spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        LANGUAGES.iter().find(|(_, known)| *known == name).map_or(Self::Unknown, |(language, _)| *language)
    }

    /// The number written in a binary header.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Unknown => Self::Other as u8,
            known => known as u8,
        }
    }

    /// The name written in a JSON header.
    #[must_use]
    pub fn name(self) -> &'static str {
        LANGUAGES[usize::from(self.code())].1
    }
}

/// The bytes after a header: one piece, or slices that go out in one vectored write.
#[derive(Clone)]
pub struct Body(Pieces);

#[derive(Clone)]
enum Pieces {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Pieces::One(Bytes::new()))
    }

    /// The slices in order.
    #[must_use]
    pub fn slices(&self) -> &[Bytes] {
        match &self.0 {
            Pieces::One(bytes) => std::slice::from_ref(bytes),
            Pieces::Many(slices) => slices,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slices().iter().map(Bytes::len).sum()
    }

    /// True without any byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices().iter().all(Bytes::is_empty)
    }

    /// All bytes in one piece: shared if they are one already (as in every received command),
    /// else copied together.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.slices() {
            [] => Bytes::new(),
            [bytes] => bytes.clone(),
            slices => slices.concat().into(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.to_bytes() == other.to_bytes()
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes in {})", self.len(), self.slices().len())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Pieces::One(bytes))
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(slices: Vec<Bytes>) -> Self {
        Self(Pieces::Many(slices))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_copies_opaque_and_encoding_and_sets_the_response_bit() {
        let mut request = Command::request(310);
        request.opaque = -7;
        request.encoding = HeaderEncoding::Binary;
        request.language = Language::Cpp;
        let answer = request.answer(0).with_ext("queueOffset", 5).with_remark("fine");
        assert_eq!((answer.opaque, answer.encoding), (-7, HeaderEncoding::Binary));
        assert!(answer.is_response() && !answer.is_one_way() && !request.is_response());
        assert_eq!((answer.language, answer.version), (Language::Java, 479));
        assert_eq!(answer.ext.get("queueOffset"), Some("5"));
        assert!(Command::one_way(15).is_one_way());
    }

    #[test]
    fn languages_have_numbers_and_names_and_the_rest_is_unknown() {
        for (code, (language, name)) in LANGUAGES.into_iter().enumerate() {
            assert_eq!(usize::from(language.code()), code);
            assert_eq!(language.name(), name);
            assert_eq!(Language::from_name(name), language);
            assert_eq!(Language::from_code(language.code()), language);
        }
        assert_eq!(Language::from_code(14), Language::Unknown);
        assert_eq!(Language::from_name("COBOL"), Language::Unknown);
        assert_eq!(Language::Unknown.name(), "OTHER");
    }

    #[test]
    fn a_body_of_slices_equals_the_same_bytes_in_one_piece() {
        let body = Body::from(vec![Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"c")]);
        assert_eq!(body, Body::from("abc"));
        assert_eq!((body.len(), body.is_empty()), (3, false));
        assert_eq!(body.to_bytes(), "abc");
        assert!(Body::from(Vec::<Bytes>::new()).is_empty());
    }
}
