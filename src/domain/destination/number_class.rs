//! Classes of numbers that cost what their owner asks, by the prefixes that the world's numbering plans give them.
//!
//! Sources: ITU-T, *List of Recommendation ITU-T E.164 assigned country codes* (annex to the ITU Operational Bulletin) with
//! its shared codes and their identification codes, and for +1 the North American Numbering Plan. Absent on purpose: the
//! premium ranges of national plans beside +1 900. They are many and change; a tenant denies those it fears by prefix.

use crate::domain::words::words;

words!(
    NumberClass { PremiumRate = "PREMIUM_RATE", Satellite = "SATELLITE", GlobalNetwork = "GLOBAL_NETWORK" }
);

impl NumberClass {
    /// Every number of the class begins with one of these.
    pub const fn prefixes(self) -> &'static [&'static str] {
        match self {
            // The International Premium Rate Service, and 900 of the North American plan.
            Self::PremiumRate => &["+979", "+1900"],
            // Inmarsat; the Global Mobile Satellite System (Iridium, Globalstar); EMSAT and Thuraya under +882.
            Self::Satellite => &["+870", "+881", "+88213", "+88216"],
            // Universal Personal Telecommunication; networks that are no country's.
            Self::GlobalNetwork => &["+878", "+882", "+883"],
        }
    }
}
