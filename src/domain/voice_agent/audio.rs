//! The format of a call's audio.

use super::super::{
    number::{one_of, ranged},
    violations::Violations,
    words::words,
};

words!(AudioEncoding { PcmS16le = "PCM_S16LE", Pcmu = "PCMU", Pcma = "PCMA" });

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AudioFormat {
    pub encoding: AudioEncoding,
    pub sample_rate_hz: u32,
    pub channels: u8,
    pub frame_ms: u8,
}

impl Default for AudioFormat {
    fn default() -> Self {
        Self { encoding: AudioEncoding::PcmS16le, sample_rate_hz: 16_000, channels: 1, frame_ms: 20 }
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub struct AudioFormatDraft {
    pub encoding: Option<AudioEncoding>,
    pub sample_rate_hz: Option<i32>,
    pub channels: Option<i32>,
    pub frame_ms: Option<i32>,
}

pub(super) fn parse(draft: AudioFormatDraft, faults: &mut Violations) -> Option<AudioFormat> {
    let default = AudioFormat::default();
    let encoding = draft.encoding.unwrap_or(default.encoding);
    let narrow = encoding != AudioEncoding::PcmS16le;
    let rates: &[u32] = if narrow { &[8_000] } else { &[8_000, 16_000, 24_000, 48_000] };
    // A caller who names only PCMU means telephony's one rate, not the default that PCMU cannot have.
    let rate_default = if narrow { 8_000 } else { default.sample_rate_hz };
    let sample_rate_hz = faults
        .take("audio_format.sample_rate_hz", one_of(draft.sample_rate_hz, rates, rate_default, encoding.as_str()));
    let channels = faults.take("audio_format.channels", ranged(draft.channels, 1, 2, u32::from(default.channels)));
    let frame_ms = faults
        .take("audio_format.frame_ms", one_of(draft.frame_ms, &[10, 20, 30, 40, 60], u32::from(default.frame_ms), ""));
    Some(AudioFormat {
        encoding,
        sample_rate_hz: sample_rate_hz?,
        channels: u8::try_from(channels?).ok()?,
        frame_ms: u8::try_from(frame_ms?).ok()?,
    })
}
