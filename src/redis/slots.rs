//! Which hash slot a key lies in, by Redis Cluster's specification.

/// Hash slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: of what stands between its first braces, if anything does.
pub(super) fn slot_of(key: &[u8]) -> u16 {
    crc16(tag_of(key)) & 0x3fff
}

fn tag_of(key: &[u8]) -> &[u8] {
    let place = |byte| move |bytes: &[u8]| bytes.iter().position(|it| *it == byte);
    let Some(open) = place(b'{')(key) else { return key };
    let rest = &key[open + 1..];
    match place(b'}')(rest) {
        Some(length) if length > 0 => &rest[..length],
        _ => key,
    }
}

/// CRC16-XMODEM. Tags are of some 36 bytes, so a table would gain little.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(*byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What CLUSTER KEYSLOT of Redis 7 answers.
    #[test]
    fn slots_are_those_of_redis() {
        for (key, slot) in [
            ("123456789", 12_739),
            ("foo", 12_182),
            ("foo{hash_tag}", 2_515),
            ("{hash_tag}:other", 2_515),
            ("bar{}", 16_328),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
        assert_eq!(slot_of(b"vg:{a}:calls"), slot_of(b"vg:{a}:x:limits"));
        assert_eq!(tag_of(b"a{{b}}"), b"{b");
        assert_eq!(tag_of(b"a{b"), b"a{b");
    }
}
