//! The FRU inventory of the server: Get FRU Inventory Area Info (34.1), Read FRU Data (34.2), and what stands there
//! (Platform Management FRU Information Storage Definition v1.0, "FRU" below).

use super::{Privilege, Request, STORAGE, question};

/// FRU device 0 is the server that the BMC is in (38, "primary FRU").
const DEVICE: u8 = 0;
/// Format version of header and areas (FRU, 8).
const VERSION: u8 = 0x01;
/// Length of the common header, in bytes (FRU, 8).
pub(crate) const HEADER: usize = 8;
/// Offsets and lengths are in multiples of so many bytes (FRU, 8).
const UNIT: usize = 8;
/// Ends the fields of an area (FRU, 10 to 12).
const END: u8 = 0xC1;
/// A language code (FRU, 15): English.
const ENGLISH: u8 = 0;
/// Longest text that is kept, in characters.
const LONGEST: usize = 96;

/// How the inventory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    /// Its size, in bytes.
    pub(crate) size: usize,
    /// Whether offsets and counts are in words of two bytes.
    by_words: bool,
}

/// Get FRU Inventory Area Info.
pub(crate) fn get_area() -> Request {
    question(STORAGE, 0x10, vec![DEVICE], Privilege::Operator)
}

/// Its answer.
pub(crate) fn area(data: &[u8]) -> Option<Area> {
    let &[low, high, access, ..] = data else { return None };
    Some(Area { size: u16::from_le_bytes([low, high]).into(), by_words: access & 1 != 0 })
}

/// Read FRU Data: `count` bytes from `offset`. `None` where that is outside of the area, or between words.
pub(crate) fn read(area: Area, offset: usize, count: usize) -> Option<Request> {
    let unit = if area.by_words { 2 } else { 1 };
    let whole = offset.is_multiple_of(unit) && count.is_multiple_of(unit);
    if count == 0 || !whole || offset.checked_add(count)? > area.size {
        return None;
    }
    let [low, high] = u16::try_from(offset / unit).ok()?.to_le_bytes();
    let count = u8::try_from(count / unit).ok()?;
    Some(question(STORAGE, 0x11, vec![DEVICE, low, high, count], Privilege::Operator))
}

/// The bytes in the answer.
pub(crate) fn part(area: Area, data: &[u8]) -> Option<&[u8]> {
    let (&count, bytes) = data.split_first()?;
    let count = usize::from(count) * if area.by_words { 2 } else { 1 };
    // Some BMCs count words where they should count bytes, or the other way round; what is there counts.
    Some(&bytes[..count.min(bytes.len())])
}

/// Where chassis, board and product area begin (FRU, 8), in bytes; `None` where the header is none.
pub(crate) fn areas(header: &[u8]) -> Option<[Option<usize>; 3]> {
    let &[version, _, chassis, board, product, ..] = header.first_chunk::<HEADER>()?;
    if version & 0x0F != VERSION
        || header[..HEADER].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0
    {
        return None;
    }
    Some([chassis, board, product].map(|at| (at != 0).then(|| usize::from(at) * UNIT)))
}

/// The length of an area in bytes, from its first two bytes.
pub(crate) fn length(start: &[u8]) -> Option<usize> {
    let &[version, units, ..] = start else { return None };
    (version & 0x0F == VERSION && units > 0).then(|| usize::from(units) * UNIT)
}

/// What the areas say of the server; what is not there is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// Who made it.
    pub(crate) manufacturer: String,
    /// What it is.
    pub(crate) product: String,
    /// Its serial number: of the product, not of the board.
    pub(crate) serial: String,
}

/// What board and product area say. The product names the server; where it has no such area, the board names it.
pub(crate) fn inventory(board: &[u8], product: &[u8]) -> Inventory {
    // Board (FRU, 11): three bytes of date after the language; maker, name. Product (FRU, 12): maker, name, part number,
    // version, serial number.
    let board = fields(board, 6, 2);
    let product = fields(product, 3, 5);
    let field = |fields: &[String], at: usize| fields.get(at).cloned().unwrap_or_default();
    let either = |at| {
        let of_product = field(&product, at);
        if of_product.is_empty() { field(&board, at) } else { of_product }
    };
    Inventory { manufacturer: either(0), product: either(1), serial: field(&product, 4) }
}

/// The areas of an inventory that was read whole: chassis, board and product. One that is not there, or not to its end, is
/// empty.
pub(crate) fn split(image: &[u8]) -> [&[u8]; 3] {
    let area = |at: usize| {
        let rest = image.get(at..)?;
        rest.get(..length(rest)?)
    };
    areas(image).unwrap_or_default().map(|at| at.and_then(area).unwrap_or_default())
}

/// The serial number of the chassis (FRU, 10: a byte of type after the length, no language; part number, serial number).
pub(crate) fn chassis_serial(chassis: &[u8]) -> String {
    fields_in(ENGLISH, chassis, 3, 2).get(1).cloned().unwrap_or_default()
}

/// The serial number of the board (FRU, 11: maker, name, serial number).
pub(crate) fn board_serial(board: &[u8]) -> String {
    fields(board, 6, 3).get(2).cloned().unwrap_or_default()
}

/// The first fields of an area that has so many bytes before them, among them its language.
fn fields(area: &[u8], skip: usize, most: usize) -> Vec<String> {
    fields_in(area.get(2).copied().unwrap_or(ENGLISH), area, skip, most)
}

fn fields_in(language: u8, area: &[u8], skip: usize, most: usize) -> Vec<String> {
    let mut rest = area.get(skip..).unwrap_or_default();
    let mut found = Vec::new();
    while let Some((&head, after)) = rest.split_first() {
        if head == END || found.len() >= most {
            break;
        }
        let length = usize::from(head & 0x3F);
        let Some((bytes, left)) = after.split_at_checked(length) else { break };
        found.push(text(head >> 6, bytes, language));
        rest = left;
    }
    found
}

/// A field's text (FRU, 13).
fn text(kind: u8, bytes: &[u8], language: u8) -> String {
    let text: String = match kind {
        // Binary: no text.
        0b00 => String::new(),
        // BCD plus.
        0b01 => bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0x0F])
            .map(|digit| char::from(*b"0123456789 -.???".get(usize::from(digit)).unwrap_or(&b'?')))
            .collect(),
        // Six bits a character, lowest bits first.
        0b10 => bytes
            .chunks(3)
            .flat_map(|chunk| {
                let bits = chunk.iter().rev().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
                let count = chunk.len() * 8 / 6;
                (0..count).map(move |at| char::from(b' ' + ((bits >> (6 * at)) & 0x3F) as u8))
            })
            .collect(),
        // In English (0 or 25) Latin-1, else UTF-16, lowest byte first.
        _ if matches!(language, 0 | 25) => bytes.iter().map(|byte| char::from(*byte)).collect(),
        _ => {
            let units = bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
    };
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().chars().take(LONGEST).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn field(text: &str) -> Vec<u8> {
        [&[0xC0 | text.len() as u8], text.as_bytes()].concat()
    }

    fn sealed(mut area: Vec<u8>) -> Vec<u8> {
        area.push(END);
        while area.len() % UNIT != UNIT - 1 {
            area.push(0);
        }
        area[1] = ((area.len() + 1) / UNIT) as u8;
        let sum = area.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        area.push(sum.wrapping_neg());
        area
    }

    fn board() -> Vec<u8> {
        sealed([&[1, 0, 0, 1, 2, 3][..], &field("Board Maker"), &field("X11"), &field("BOARD-SN")].concat())
    }

    fn product() -> Vec<u8> {
        let fields = ["Acme", "Rocket 2000", "PN-1", "v2", "S1234567"].map(field).concat();
        sealed([&[1, 0, 25][..], &fields].concat())
    }

    /// A whole inventory.
    pub(crate) fn image() -> Vec<u8> {
        let (board, product) = (board(), product());
        let mut header = vec![1, 0, 0, 1, (1 + board.len() / UNIT) as u8, 0, 0];
        let sum = header.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        header.push(sum.wrapping_neg());
        [header, board, product].concat()
    }

    #[test]
    fn an_inventory() {
        let image = image();
        let [chassis_at, board_at, product_at] = areas(&image).unwrap();
        assert_eq!(chassis_at, None);
        let [board_at, product_at] = [board_at, product_at].map(Option::unwrap);
        assert_eq!((board_at, length(&image[board_at..])), (8, Some(board().len())));
        assert_eq!(length(&image[product_at..]), Some(product().len()));
        let whole = Inventory {
            manufacturer: "Acme".into(),
            product: "Rocket 2000".into(),
            serial: "S1234567".into(),
        };
        assert_eq!(inventory(&image[board_at..], &image[product_at..]), whole);
        // Without product area the board names it; its serial number is not the server's.
        let named =
            Inventory { manufacturer: "Board Maker".into(), product: "X11".into(), serial: String::new() };
        assert_eq!(inventory(&board(), &[]), named);
        assert_eq!(inventory(&[], &[]), Inventory::default());
        let mut damaged = image;
        damaged[7] ^= 1;
        assert_eq!(areas(&damaged), None);
    }

    #[test]
    fn texts() {
        assert_eq!(text(0b11, b" S1\x00 ", 0), "S1");
        assert_eq!(text(0b11, &[b'A', 0, 0xC4, 0x03], 1), "A\u{3C4}");
        assert_eq!(text(0b01, &[0x12, 0x3A, 0xBC], 0), "123 -.");
        // "IPMI" as the specification's own example packs it (FRU, 13.3).
        assert_eq!(text(0b10, &[0x29, 0xDC, 0xA6], 0), "IPMI");
        assert_eq!(text(0b00, &[1, 2], 0), "");
        assert_eq!(text(0b11, &[b'x'; 63], 0).len(), 63);
    }

    #[test]
    fn reads() {
        let bytes = area(&[0, 1, 0]).unwrap();
        assert_eq!(read(bytes, 8, 32).unwrap().data, [0, 8, 0, 32]);
        assert!(read(bytes, 250, 8).is_none() && read(bytes, 0, 0).is_none());
        let words = area(&[0, 1, 1]).unwrap();
        assert_eq!(read(words, 8, 32).unwrap().data, [0, 4, 0, 16]);
        assert!(read(words, 7, 2).is_none());
        assert_eq!(part(words, &[1, 7, 8, 9]), Some(&[7, 8][..]));
        assert_eq!(part(bytes, &[9, 7]), Some(&[7][..]));
        assert_eq!((part(bytes, &[]), area(&[0, 1])), (None, None));
    }

    proptest! {
        #[test]
        fn nothing_harms(bytes: Vec<u8>, more: Vec<u8>) {
            let _ = (areas(&bytes), length(&bytes), area(&bytes));
            let _ = split(&bytes);
            let found = inventory(&bytes, &more);
            let serials = [chassis_serial(&bytes), board_serial(&bytes)];
            for text in [found.manufacturer, found.product, found.serial].into_iter().chain(serials) {
                prop_assert!(text.chars().count() <= LONGEST && !text.chars().any(char::is_control));
            }
        }
    }
}
