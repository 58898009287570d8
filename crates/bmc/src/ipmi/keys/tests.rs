//! Against a login that `ipmitool` 1.8.19 and OpenIPMI's `ipmi_sim` 2.0.33 made with each other (suite 3), as
//! `ipmitool -vvvvv` printed it, and one of suite 17 that `ipmitool` computed.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// A recorded session.
pub(crate) struct Recorded {
    pub(crate) suite: Suite,
    pub(crate) user: UserKey,
    pub(crate) transcript: Transcript,
    pub(crate) open_request: Vec<u8>,
    pub(crate) open_answer: Vec<u8>,
    pub(crate) rakp1: Vec<u8>,
    pub(crate) rakp2: Vec<u8>,
    pub(crate) rakp3: Vec<u8>,
    pub(crate) rakp4: Vec<u8>,
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Vec<u8>,
    pub(crate) sealed_request: Vec<u8>,
    pub(crate) sealed_answer: Vec<u8>,
}

impl Recorded {
    pub(crate) fn keys(&self) -> Keys {
        self.transcript.keys(self.suite, &self.user)
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// `ipmitool -I lanplus -C 3 -U admin -P secret chassis power status` at `ipmi_sim`.
pub(crate) fn recorded() -> Recorded {
    let bytes = |text: &str| hex(text).try_into().unwrap();
    Recorded {
        suite: Suite::Sha1,
        user: UserKey::new(b"secret").unwrap(),
        transcript: Transcript {
            console_session: 0xA0A2_A3A4,
            bmc_session: 0x0000_0302,
            console_random: bytes("2abea52b882d8f431c02a76d23e4b617"),
            bmc_random: bytes("9b841cedec51cdd6c1fce8d10a8a2e29"),
            bmc_guid: bytes("a123456789abcdefa123456789abcdef"),
            role: 0x14,
            username: b"admin".to_vec(),
        },
        open_request: hex(
            "06 00 ff 07 06 10 00 00 00 00 00 00 00 00 20 00 00 00 00 00 a4 a3 a2 a0 00 00 00 08 01 \
                           00 00 00 01 00 00 08 01 00 00 00 02 00 00 08 01 00 00 00",
        ),
        open_answer: hex(
            "06 00 ff 07 06 11 00 00 00 00 00 00 00 00 24 00 00 00 00 00 a4 a3 a2 a0 02 03 00 00 00 \
                          00 00 08 01 00 00 00 01 00 00 08 01 00 00 00 02 00 00 08 01 00 00 00",
        ),
        rakp1: hex(
            "06 00 ff 07 06 12 00 00 00 00 00 00 00 00 21 00 00 00 00 00 02 03 00 00 2a be a5 2b 88 2d 8f \
                    43 1c 02 a7 6d 23 e4 b6 17 14 00 00 05 61 64 6d 69 6e",
        ),
        rakp2: hex(
            "06 00 ff 07 06 13 00 00 00 00 00 00 00 00 3c 00 00 00 00 00 a4 a3 a2 a0 9b 84 1c ed ec 51 cd \
                    d6 c1 fc e8 d1 0a 8a 2e 29 a1 23 45 67 89 ab cd ef a1 23 45 67 89 ab cd ef 0a c2 34 8a cc bb \
                    5e 8e e6 2f 0d 75 cb c0 99 cc cf 7b cc 74",
        ),
        rakp3: hex(
            "06 00 ff 07 06 14 00 00 00 00 00 00 00 00 1c 00 00 00 00 00 02 03 00 00 52 a7 c0 73 07 55 d4 \
                    19 ff 8c f7 05 b7 f7 73 33 ed 1d f3 44",
        ),
        rakp4: hex(
            "06 00 ff 07 06 15 00 00 00 00 00 00 00 00 14 00 00 00 00 00 a4 a3 a2 a0 77 4a ed 7a 36 90 24 \
                    38 36 eb 8b 28",
        ),
        request: hex("20 18 c8 81 04 3b 04 3c"),
        answer: hex("81 1c 63 20 04 3b 00 04 9d"),
        sealed_request: hex(
            "06 00 ff 07 06 c0 02 03 00 00 03 00 00 00 20 00 f6 ac 70 33 20 17 2f 80 52 3b ec 98 \
                             2a 87 c0 6f a6 c8 6f f9 21 6c 74 f4 0e 0d 5b a2 3c 8e 6a 27 ff ff 02 07 23 b6 03 aa \
                             40 be 47 79 fd 4a 63 a8",
        ),
        sealed_answer: hex(
            "06 00 ff 07 06 c0 a4 a3 a2 a0 01 00 00 00 20 00 32 04 d9 77 f8 ce 67 36 a1 bd f3 c1 \
                            97 bf ac d4 c3 dd df 87 33 f2 55 94 7b 5c 39 07 bf b3 d3 12 ff ff 02 07 13 f1 04 f3 \
                            8c 0c 2e a8 7e 93 f7 a2",
        ),
    }
}

/// Keys of some session.
pub(crate) fn keys(suite: Suite, number: u8) -> Keys {
    let transcript = Transcript { bmc_random: [number; 16], ..recorded().transcript };
    transcript.keys(suite, &recorded().user)
}

#[test]
fn the_keys_of_a_recorded_session() {
    let r = recorded();
    let (t, keys) = (&r.transcript, r.keys());
    assert_eq!(t.rakp2_code(r.suite, &r.user), hex("0ac2348accbb5e8ee62f0d75cbc099cccf7bcc74"));
    assert_eq!(t.rakp3_code(r.suite, &r.user), hex("52a7c0730755d419ff8cf705b7f77333ed1df344"));
    assert_eq!(*keys.session, hex("48bf003bd302e2aaeae323439422e89140f7e85b"));
    assert_eq!(keys.aes[..], hex("48a66544cc126efdade3358417afcb0f"));
    assert_eq!(t.rakp4_code(&keys), hex("774aed7a3690243836eb8b28"));
    assert_eq!(keys.decrypt(&r.sealed_request[16..48]).unwrap(), r.request);
    assert_eq!(
        keys.encrypt(hex("f6ac703320172f80523bec982a87c06f").try_into().unwrap(), &r.request),
        r.sealed_request[16..48]
    );
    // K1 cannot be asked of ring, but what it makes can.
    let code = hmac::sign(&keys.integrity, b"");
    let k1 =
        hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &hex("c18c7093f44d22217d15f464998a04cb9a416b8c"));
    assert_eq!(code.as_ref(), hmac::sign(&k1, b"").as_ref());
}

/// RFC 4231, test case 2, and RFC 2202, test case 2: the same key and data.
#[test]
fn the_hashes_are_the_right_ones() {
    let parts: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
    assert_eq!(sign(Suite::Sha1, b"Jefe", &parts), hex("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"));
    assert_eq!(
        sign(Suite::Sha256, b"Jefe", &parts),
        hex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    );
}

#[test]
fn passwords() {
    assert!(UserKey::new(&[b'x'; MAX_PASSWORD]).is_some());
    assert!(UserKey::new(&[b'x'; MAX_PASSWORD + 1]).is_none());
    assert_eq!(format!("{:?}", UserKey::new(b"hunter2").unwrap()), "UserKey(<redacted>)");
    assert_eq!(format!("{:?}", keys(Suite::Sha256, 1)), "Keys { suite: Sha256, .. }");
}

proptest! {
    #[test]
    fn what_is_encrypted_is_decrypted(vector: [u8; 16], data in prop::collection::vec(any::<u8>(), 0..200)) {
        let keys = keys(Suite::Sha256, 1);
        let payload = keys.encrypt(vector, &data);
        prop_assert_eq!(payload.len() % BLOCK, 0);
        prop_assert_eq!(keys.decrypt(&payload), Some(data));
    }

    #[test]
    fn no_payload_harms(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = keys(Suite::Sha1, 1).decrypt(&payload);
    }

    #[test]
    fn every_part_of_a_login_counts(at in 0..7_usize, suite in prop::sample::select(Suite::ALL.to_vec())) {
        let r = recorded();
        let mut other = r.transcript.clone();
        match at {
            0 => other.console_session ^= 1,
            1 => other.bmc_session ^= 1,
            2 => other.console_random[3] ^= 1,
            3 => other.bmc_random[3] ^= 1,
            4 => other.bmc_guid[3] ^= 1,
            5 => other.role ^= 1,
            _ => other.username.push(b'x'),
        }
        prop_assert_ne!(r.transcript.rakp2_code(suite, &r.user), other.rakp2_code(suite, &r.user));
        let length = if suite.is_sha256() { 32 } else { 20 };
        prop_assert_eq!(r.transcript.rakp2_code(suite, &r.user).len(), length);
    }
}
