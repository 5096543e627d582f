//! A strict reader of captures: every block as it has to be, to the very end.

use std::io::Read;

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;
/// Longer than the longest frame there is, with all that belongs to it.
const MOST_BYTES: usize = 256 << 10;

/// What a capture had in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    pub packets: u64,
    /// Of the packets'.
    pub bytes: u64,
    /// Interfaces whose count of lost packets is told, as it is at the end.
    pub statistics: u64,
    /// Whether it ended between two blocks.
    pub is_whole: bool,
}

/// Reads a capture to its end. A mistake is told, and the rest is read for nobody, so that the writer is not held up.
pub fn read(mut from: impl Read) -> Result<Contents, String> {
    let mut contents = Contents { is_whole: true, ..Contents::default() };
    let mut interfaces = 0;
    let mut number = 0_u64;
    let read = loop {
        match block(&mut from) {
            Ok(Some((kind, body))) => {
                let taken = take(kind, &body, number, &mut interfaces, &mut contents);
                if let Err(mistake) = taken {
                    break Err(format!(
                        "block {number}, of kind {kind:#x} with {} bytes: {mistake}",
                        body.len()
                    ));
                }
            }
            Ok(None) => break Ok(contents),
            Err(Broken::Off) => break Ok(Contents { is_whole: false, ..contents }),
            Err(Broken::Wrong(mistake)) => break Err(format!("block {number}: {mistake}")),
        }
        number += 1;
    };
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    read
}

enum Broken {
    /// It ends in the middle of a block.
    Off,
    Wrong(String),
}

/// The next one, without its frame.
fn block(from: &mut impl Read) -> Result<Option<(u32, Vec<u8>)>, Broken> {
    let mut head = [0; 8];
    match from.read(&mut head[..1]) {
        Ok(0) => return Ok(None),
        Ok(_) => from.read_exact(&mut head[1..]).map_err(|_| Broken::Off)?,
        Err(_) => return Err(Broken::Off),
    }
    let (kind, total) = (number_at(&head, 0), number_at(&head, 4) as usize);
    if !(12..=MOST_BYTES).contains(&total) || total % 4 != 0 {
        return Err(Broken::Wrong(format!("kind {kind:#x}, {total} bytes long")));
    }
    let mut rest = vec![0; total - head.len()];
    from.read_exact(&mut rest).map_err(|_| Broken::Off)?;
    let again = number_at(&rest, rest.len() - 4) as usize;
    if again != total {
        return Err(Broken::Wrong(format!("{total} bytes long at its beginning, {again} at its end")));
    }
    rest.truncate(rest.len() - 4);
    Ok(Some((kind, rest)))
}

fn take(
    kind: u32,
    body: &[u8],
    number: u64,
    interfaces: &mut u32,
    contents: &mut Contents,
) -> Result<(), String> {
    let needed = match kind {
        SECTION => 16,
        INTERFACE => 8,
        STATISTICS => 12,
        PACKET => 20,
        other => return Err(format!("nobody writes blocks of kind {other:#x}")),
    };
    if body.len() < needed {
        return Err(format!("at least {needed} bytes are needed"));
    }
    if (kind == SECTION) != (number == 0) {
        return Err("one section begins it".to_owned());
    }
    match kind {
        SECTION if number_at(body, 0) != BYTE_ORDER => return Err("another order of bytes".to_owned()),
        INTERFACE => *interfaces += 1,
        STATISTICS => contents.statistics += 1,
        PACKET => {
            let (captured, whole) = (number_at(body, 12), number_at(body, 16));
            let room = (body.len() - 20) as u32;
            if captured > whole || captured.next_multiple_of(4) > room {
                return Err(format!("{captured} of {whole} bytes in room for {room}"));
            }
            contents.packets += 1;
            contents.bytes += u64::from(captured);
        }
        _ => {}
    }
    if [STATISTICS, PACKET].contains(&kind) && number_at(body, 0) >= *interfaces {
        return Err(format!("interface {} of {interfaces}", number_at(body, 0)));
    }
    Ok(())
}

fn number_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes"))
}
