use super::*;
use crate::Language;
use bytes::Bytes;
use proptest::prelude::*;

const ROUTE_JSON: &str = "00000087000000837b22636f6465223a3130352c226578744669656c6473223a7b22746f706963223a22546f70696354657374227d2c22666c6167223a302c226c616e6775616765223a224a415641222c226f7061717565223a372c2273657269616c697a655479706543757272656e74525043223a224a534f4e222c2276657273696f6e223a3437397d";
const ROUTE_BINARY: &str =
    "0000002d0100002900690001df0000000700000000000000000000001400 05746f70696300000009546f70696354657374";
const NO_ROUTE_JSON: &str = "000000830000007f7b22636f6465223a31372c22666c6167223a312c226c616e6775616765223a224a415641222c226f7061717565223a372c2272656d61726b223a224e6f20746f70696320726f75746520696e666f222c2273657269616c697a655479706543757272656e74525043223a224a534f4e222c2276657273696f6e223a3437397d";
const NO_ROUTE_BINARY: &str =
    "0000002c0100002800110001df0000000700000001000000134e6f20746f70696320726f75746520696e666f00000000";
const SEND_JSON: &str = r#"{"code":310,"extFields":{"a":"PG","b":"TopicTest","c":"TBW102","d":"4","e":"2","f":"0","g":"1700000000000","h":"0","i":"UNIQ_KEY\u00017F000001000100000000000000000000\u0002WAIT\u0001true\u0002TAGS\u0001TagA\u0002","j":"0","k":"false","m":"false","n":"broker-a"},"flag":0,"language":"JAVA","opaque":8,"serializeTypeCurrentRPC":"JSON","version":479}"#;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn frame(encoding: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&(u32::from(encoding) << 24 | header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(body);
    bytes
}

fn encode(command: &Command) -> Vec<u8> {
    let mut out = Vec::new();
    let length = encode_header(command, &mut out).unwrap();
    out.extend_from_slice(&command.body.to_bytes());
    assert_eq!(out.len(), length);
    out
}

fn decode(bytes: &[u8]) -> Result<Option<Command>, FrameError> {
    let mut decoder = FrameDecoder::new();
    decoder.push(bytes);
    decoder.next()
}

fn decode_json(header: &str) -> Result<Command, FrameError> {
    decode(&frame(0, header.as_bytes(), b"")).map(|command| command.expect("a whole frame"))
}

fn decode_binary(header: &[u8]) -> Result<Command, FrameError> {
    decode(&frame(1, header, b"")).map(|command| command.expect("a whole frame"))
}

fn route_request(encoding: HeaderEncoding) -> Command {
    let mut command = Command::request(105).with_ext("topic", "TopicTest");
    command.opaque = 7;
    command.encoding = encoding;
    command
}

fn send_request() -> Command {
    let properties = "UNIQ_KEY\u{1}7F000001000100000000000000000000\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}";
    let mut command = Command::request(310).with_body("hello");
    command.opaque = 8;
    for (name, value) in [
        ("a", "PG"),
        ("b", "TopicTest"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "2"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ] {
        command.ext.push(name, value);
    }
    command
}

/// The frames of remoting-protocol §19, byte for byte, in both directions.
#[test]
fn the_worked_frames_encode_and_decode() {
    let no_route = |encoding| route_request(encoding).answer(17).with_remark("No topic route info");
    let send = frame(0, SEND_JSON.as_bytes(), b"hello");
    assert_eq!((send.len(), &send[..8]), (360, &hex("00000164 0000015b")[..]));
    for (bytes, command) in [
        (hex(ROUTE_JSON), route_request(HeaderEncoding::Json)),
        (hex(ROUTE_BINARY), route_request(HeaderEncoding::Binary)),
        (hex(NO_ROUTE_JSON), no_route(HeaderEncoding::Json)),
        (hex(NO_ROUTE_BINARY), no_route(HeaderEncoding::Binary)),
        (send, send_request()),
    ] {
        assert_eq!(decode(&bytes).unwrap().unwrap(), command);
        assert_eq!(encode(&command), bytes);
    }
}

/// What real clients send (remoting-protocol §1.3, §17).
#[test]
fn json_is_read_as_leniently_as_peers_need() {
    let read = |json: &str| decode_json(json).unwrap();
    let bare = read(r#"{"code":34}"#);
    assert_eq!((bare.flag, bare.version, bare.opaque, bare.language), (0, 0, 0, Language::Java));
    assert_eq!(read(r#" {"opaque":"-5","code":"310","flag":"2","version":"63"} "#).opaque, -5);
    let nulls = read(r#"{"code":0,"remark":null,"extFields":null,"flag":null,"language":null}"#);
    assert_eq!((nulls.remark, nulls.ext.len()), (None, 0));
    let mixed =
        read(r#"{"code":10,"extFields":{"d":4,"k":false,"x":null,"g":-1700000000000,"r":1.5},"remark":""}"#);
    assert_eq!(
        mixed.ext.iter().collect::<Vec<_>>(),
        [("d", "4"), ("k", "false"), ("g", "-1700000000000"), ("r", "1.5")]
    );
    assert_eq!(mixed.remark, None);
    assert_eq!(read(r#"{"code":1,"language":1}"#).language, Language::Cpp);
    for unknown in [r#""COBOL""#, "99", "-1", "300"] {
        assert_eq!(read(&format!(r#"{{"code":1,"language":{unknown}}}"#)).language, Language::Unknown);
    }
    assert_eq!(
        read(r#"{"code":1,"new":[{"a":[1,-2,3.5,null,true,"x"]}],"serializeTypeCurrentRPC":"JSON"}"#).code,
        1
    );
}

/// A properties string of the largest size passes, even if JSON must escape every byte of it.
#[test]
fn the_largest_properties_fit_a_header() {
    for unit in ["\u{1}", "\"", "ü", "x"] {
        let properties = unit.repeat(32_767 / unit.len());
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            let mut command = send_request();
            command.encoding = encoding;
            command.ext.push("i", &properties);
            assert_eq!(decode(&encode(&command)).unwrap().unwrap(), command);
        }
    }
}

/// proves: B1, B2
#[test]
fn bad_frame_lengths_are_refused_on_sight() {
    for declared in [0, 1, 3, 16_777_213, i32::MAX as u32, 0x8000_0000, u32::MAX] {
        let mut decoder = FrameDecoder::new();
        decoder.push(&declared.to_be_bytes());
        assert_eq!(decoder.next(), Err(FrameError::Length { declared, limit: 16_777_212 }));
        decoder.push(&hex(ROUTE_JSON));
        assert!(decoder.next().is_err(), "an error is final");
    }
    assert_eq!(decode(&16_777_212u32.to_be_bytes()), Ok(None));
}

/// proves: B3
#[test]
fn a_declared_length_allocates_nothing() {
    let mut decoder = FrameDecoder::new();
    decoder.push(&16_777_212u32.to_be_bytes());
    decoder.push(&100u32.to_be_bytes());
    assert_eq!(decoder.next(), Ok(None));
    assert!(decoder.buffer().capacity() < 1024);
}

/// proves: B4, B5, B6
#[test]
fn bad_header_lengths_and_encodings_are_refused() {
    for (word, error) in [
        (7u32, FrameError::HeaderLength { declared: 7, limit: 6 }),
        (0xFF_FFFF, FrameError::HeaderLength { declared: 0xFF_FFFF, limit: 6 }),
        (0, FrameError::HeaderLength { declared: 0, limit: 6 }),
        (0x0200_0002, FrameError::Encoding(2)),
        (0xFF00_0002, FrameError::Encoding(255)),
    ] {
        let mut bytes = 10u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&word.to_be_bytes());
        assert_eq!(decode(&bytes), Err(error));
    }
    let mut bytes = 16_000_000u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(HEADER_BYTES_MAX as u32 + 1).to_be_bytes());
    assert!(matches!(decode(&bytes), Err(FrameError::HeaderLength { .. })));
}

/// proves: B11
#[test]
fn cuts_between_reads_do_not_matter() {
    let commands =
        [send_request(), route_request(HeaderEncoding::Binary), route_request(HeaderEncoding::Json)];
    let bytes: Vec<u8> = commands.iter().cycle().take(300).flat_map(encode).collect();
    for piece in [1, 2, 3, 7, 8, 360, 4096, bytes.len()] {
        let (mut decoder, mut found) = (FrameDecoder::new(), Vec::new());
        for part in bytes.chunks(piece) {
            decoder.push(part);
            while let Some(command) = decoder.next().unwrap() {
                found.push(command);
            }
        }
        assert_eq!((found.len(), decoder.pending()), (300, 0));
        assert!(found.iter().zip(commands.iter().cycle()).all(|(found, sent)| found == sent));
    }
}

/// proves: B7, B11
#[test]
fn one_frame_in_more_than_ten_thousand_reads_is_the_same_and_costs_what_arrived() {
    let command = send_request().with_body(vec![7; 20_000]);
    let bytes = encode(&command);
    let mut decoder = FrameDecoder::new();
    for byte in &bytes[..bytes.len() - 1] {
        decoder.push(std::slice::from_ref(byte));
        assert_eq!(decoder.next(), Ok(None));
    }
    assert!(decoder.buffer().capacity() <= 2 * bytes.len());
    decoder.push(&bytes[bytes.len() - 1..]);
    assert_eq!(decoder.next(), Ok(Some(command)));
}

/// proves: B12
#[test]
fn other_protocols_are_refused_within_their_first_bytes() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01", b"PROXY TCP4", b"SSH-2.0-x"]
    {
        assert!(decode(&bytes[..4]).is_err(), "{bytes:?}");
    }
}

/// proves: B13
#[test]
fn json_cut_at_any_byte_is_an_error() {
    for cut in 1..SEND_JSON.len() {
        assert!(decode_json(&SEND_JSON[..cut]).is_err(), "cut at {cut}");
    }
}

/// proves: B14
#[test]
fn deep_json_is_an_error() {
    let nested = |open: &str, close: &str, depth| {
        let value = open.repeat(depth) + "1" + &close.repeat(depth);
        decode_json(&format!(r#"{{"code":1,"x":{value}}}"#))
    };
    assert!(nested("[", "]", 15).is_ok() && nested(r#"{"a":"#, "}", 15).is_ok());
    for depth in [16, 17, 1000, 10_000] {
        assert!(nested("[", "]", depth).is_err() && nested(r#"{"a":"#, "}", depth).is_err());
    }
    assert!(decode_json(&format!(r#"{{"code":1,"extFields":{}"#, r#"{"a":"#.repeat(10_000))).is_err());
}

/// proves: B15, B16, B18
#[test]
fn json_that_is_no_header_is_an_error() {
    for json in [
        r#"{"opaque":1}"#,
        r#"{"code":null}"#,
        r#"{"code":1,"code":2}"#,
        r#"{"code":1,"flag":1,"flag":1}"#,
        r#"{"code":1,"extFields":{},"extFields":{}}"#,
        r#"{"code":1,"extFields":{"a":"1","a":"2"}}"#,
        r#"{"code":1e400}"#,
        r#"{"code":1,"extFields":{"a":1e400}}"#,
        r#"{"code":-0}"#,
        r#"{"code":9223372036854775808}"#,
        r#"{"code":2147483648}"#,
        r#"{"code":"2147483648"}"#,
        r#"{"code":1.5}"#,
        r#"{"code":1.0}"#,
        r#"{"code":"1.0"}"#,
        r#"{"code":"ten"}"#,
        r#"{"code":01}"#,
        r#"{"code":NaN}"#,
        r#"{"code":true}"#,
        r#"{"code":{}}"#,
        r#"{"code":1,"opaque":[]}"#,
        r#"[{"code":1}]"#,
        r#""code""#,
        "1",
        "null",
        r#"{"code":1}x"#,
        r#"{"code":1,"extFields":[]}"#,
        r#"{"code":1,"extFields":"a"}"#,
        r#"{"code":1,"extFields":{"a":{}}}"#,
        r#"{"code":1,"extFields":{"a":["b"]}}"#,
        r#"{"code":1,"remark":{}}"#,
        r#"{"code":1,"language":{}}"#,
        r"{'code':1}",
        r"{code:1}",
        r#"{"code":1,}"#,
    ] {
        assert!(matches!(decode_json(json), Err(FrameError::Json(_))), "{json}");
    }
}

/// proves: B17
#[test]
fn bad_json_texts_are_errors() {
    for text in [r"\ud800", r"\udc00\ud800", r"a\u0000", "a\nb", r"\x41"] {
        for json in [
            format!(r#"{{"code":1,"extFields":{{"a":"{text}"}}}}"#),
            format!(r#"{{"code":1,"extFields":{{"{text}":"a"}}}}"#),
            format!(r#"{{"code":1,"remark":"{text}"}}"#),
        ] {
            assert!(decode_json(&json).is_err(), "{json}");
        }
    }
    for bytes in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xe2\x82", b"\xf4\x90\x80\x80"] {
        let header = [br#"{"code":1,"extFields":{"a":""#, bytes, br#""}}"#].concat();
        assert!(decode(&frame(0, &header, b"")).is_err(), "{bytes:?}");
    }
    let long = |bytes| decode_json(&format!(r#"{{"code":1,"extFields":{{"a":"{}"}}}}"#, "x".repeat(bytes)));
    assert!(long(TEXT_BYTES_MAX).is_ok());
    assert!(matches!(long(TEXT_BYTES_MAX + 1), Err(FrameError::Limit { .. })));
    assert!(matches!(long(1 << 20), Err(FrameError::HeaderLength { .. })));
}

/// proves: B19
#[test]
fn type_hints_are_plain_data() {
    let command =
        decode_json(r#"{"@type":"java.lang.Class","code":1,"extFields":{"@type":"x","$ref":"$"},"val":"y"}"#)
            .unwrap();
    assert_eq!((command.ext.get("@type"), command.ext.get("$ref")), (Some("x"), Some("$")));
}

/// proves: B20
#[test]
fn a_binary_header_cut_at_any_byte_is_an_error() {
    let bytes = encode(&route_request(HeaderEncoding::Binary).answer(1).with_remark("no").with_ext("a", "b"));
    let header = &bytes[8..];
    assert!(decode_binary(header).is_ok());
    for cut in 1..header.len() {
        assert!(matches!(decode_binary(&header[..cut]), Err(FrameError::Binary { .. })), "cut at {cut}");
    }
}

fn binary(remark_length: i32, fields_length: i32, fields: &[u8]) -> Vec<u8> {
    let mut header = hex("0069 00 01df 00000007 00000000");
    header.extend_from_slice(&remark_length.to_be_bytes());
    header.extend_from_slice(&fields_length.to_be_bytes());
    header.extend_from_slice(fields);
    header
}

/// proves: B21, B22, B23
#[test]
fn bad_binary_lengths_are_errors() {
    assert!(decode_binary(&binary(0, 0, &[])).is_ok());
    for remark in [-1, i32::MIN, i32::MAX, 5, 100] {
        assert!(decode_binary(&binary(remark, 0, &[])).is_err(), "remark {remark}");
    }
    let entry = hex("0001 61 00000001 62");
    assert!(decode_binary(&binary(0, 8, &entry)).is_ok());
    for length in [-1, i32::MIN, i32::MAX, 7, 9, 0] {
        assert!(decode_binary(&binary(0, length, &entry)).is_err(), "fields {length}");
    }
    for entry in [
        "0000 00000001 62",
        "ffff 61 00000001 62",
        "8000 61 00000001 62",
        "7fff 61 00000001 62",
        "0001 61 ffffffff 62",
        "0001 61 80000000 62",
        "0001 61 7fffffff 62",
        "0001 61 00000002 62",
        "0001 61 00000001 62 00",
        "0001 61 00000001 62 0001 61",
        "0001 ff 00000001 62",
        "0001 61 00000001 ff",
        "0001 61 00000001 00",
    ] {
        let entry = hex(entry);
        assert!(decode_binary(&binary(0, entry.len() as i32, &entry)).is_err(), "{entry:?}");
    }
}

/// proves: B24
#[test]
fn the_number_of_fields_is_limited_and_the_last_duplicate_wins() {
    let duplicates = hex("0001 61 00000001 62 0001 61 00000001 63");
    let command = decode_binary(&binary(0, duplicates.len() as i32, &duplicates)).unwrap();
    assert_eq!(command.ext.iter().collect::<Vec<_>>(), [("a", "c")]);

    let entries = |count| hex("0001 61 00000000").repeat(count);
    assert!(decode_binary(&binary(0, 256 * 7, &entries(256))).is_ok());
    assert!(decode_binary(&binary(0, 257 * 7, &entries(257))).is_err());
    let json = |count: usize| {
        let fields: Vec<_> = (0..count).map(|at| format!(r#""{at}":"""#)).collect();
        decode_json(&format!(r#"{{"code":1,"extFields":{{{}}}}}"#, fields.join(",")))
    };
    assert!(json(256).is_ok() && json(257).is_err() && json(10_000).is_err());
    // A million of them do not fit a header; as many as do are too many.
    for entry in ["0000 00000000", "0001 61 00000000"] {
        let million = hex(entry).repeat(1_000_000);
        let error = decode_binary(&binary(0, million.len() as i32, &million)).unwrap_err();
        assert!(matches!(error, FrameError::HeaderLength { .. }), "{error}");
        let most = &million[..HEADER_BYTES_MAX / 10 / hex(entry).len() * hex(entry).len()];
        assert!(decode_binary(&binary(0, most.len() as i32, most)).is_err());
    }
    assert!(matches!(json(1_000_000), Err(FrameError::HeaderLength { .. })));
    let name = |length| decode_json(&format!(r#"{{"code":1,"extFields":{{"{}":""}}}}"#, "n".repeat(length)));
    assert!(name(NAME_BYTES_MAX).is_ok() && name(NAME_BYTES_MAX + 1).is_err());
}

/// proves: B24
///
/// Names that Java's hash table, and those of many others, would put into one place.
#[test]
fn names_that_collide_elsewhere_are_fields_like_others() {
    let names: Vec<String> = (0..256)
        .map(|at: u32| (0..8).map(|bit| if at >> bit & 1 == 0 { "Aa" } else { "BB" }).collect())
        .collect();
    let mut command = send_request();
    command.ext = names.iter().map(|name| (name.clone(), "x".to_owned())).collect();
    for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
        command.encoding = encoding;
        let read = decode(&encode(&command)).unwrap().unwrap();
        assert_eq!(read.ext.iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
    }
}

/// proves: B25
#[test]
fn extreme_numbers_survive() {
    for number in [i32::MIN, -1, 0, 1, i32::MAX] {
        let json = format!(r#"{{"code":{number},"flag":{number},"opaque":{number},"version":{number}}}"#);
        let command = decode_json(&json).unwrap();
        assert_eq!(
            (command.code, command.flag, command.opaque, command.version),
            (number, number, number, number)
        );
        assert_eq!(decode(&encode(&command)).unwrap().unwrap(), command);
    }
    let lowest = decode_binary(&hex("8000 ff 8000 80000000 80000000 00000000 00000000")).unwrap();
    assert_eq!((lowest.code, lowest.version, lowest.language), (-32_768, -32_768, Language::Unknown));
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_no_trace() {
    let mut out = b"before".to_vec();
    let mut pop = Command::request(200_050);
    assert!(encode_header(&pop, &mut Vec::new()).is_ok());
    pop.encoding = HeaderEncoding::Binary;
    assert_eq!(encode_header(&pop, &mut out), Err(SendError::Inexpressible));
    let huge = Command::request(1).with_body(vec![0; FRAME_BYTES_MAX]);
    assert_eq!(encode_header(&huge, &mut out), Err(SendError::TooLarge));
    let wordy = Command::request(1).with_remark("x".repeat(HEADER_BYTES_MAX));
    assert_eq!(encode_header(&wordy, &mut out), Err(SendError::TooLarge));
    assert_eq!(&out[..], b"before");
}

#[test]
fn a_body_is_a_slice_of_what_was_read() {
    let mut decoder = FrameDecoder::new();
    decoder.push(&encode(&send_request()));
    let read = decoder.buffer().as_ptr_range();
    let body = decoder.next().unwrap().unwrap().body.to_bytes();
    assert!(read.contains(&body.as_ptr()));
    assert_eq!(body, Bytes::from_static(b"hello"));
}

fn any_command() -> impl Strategy<Value = Command> {
    let numbers = (any::<i16>(), any::<i16>(), any::<i32>(), any::<i32>(), 0u8..14, any::<bool>());
    let texts = (
        prop::option::of("[^\0]{1,20}"),
        prop::collection::btree_map("[^\0]{1,12}", "[^\0]{0,40}", 0..20),
        prop::collection::vec(any::<u8>(), 0..200),
    );
    (numbers, texts).prop_map(|((code, version, opaque, flag, language, binary), (remark, ext, body))| {
        Command {
            code: code.into(),
            version: version.into(),
            opaque,
            flag,
            language: Language::from_code(language),
            remark,
            ext: ext.into_iter().collect(),
            body: body.into(),
            encoding: if binary { HeaderEncoding::Binary } else { HeaderEncoding::Json },
        }
    })
}

proptest! {
    #[test]
    fn any_command_survives_the_wire(command in any_command()) {
        prop_assert_eq!(decode(&encode(&command)).unwrap().unwrap(), command);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), encoding in 0u8..2) {
        let mut whole = FrameDecoder::new();
        whole.push(&bytes);
        while let Ok(Some(_)) = whole.next() {}
        let _ = decode(&frame(encoding, &bytes, b""));
    }

    #[test]
    fn a_changed_byte_is_decoded_or_refused(command in any_command(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = encode(&command);
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode(&bytes);
    }
}
