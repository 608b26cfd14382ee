//! Which types of events somebody wants to hear of.

use std::str::FromStr;

use super::{
    event::EventType,
    violations::{Fault, Violations},
};

/// Patterns that one list may hold.
pub const EVENT_PATTERNS_MAX: usize = 32;

/// One type (`call.ended`), or all that begin alike (`ai_session.*`, `*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventPattern(String);

impl EventPattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, kind: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => self.0 == kind,
        }
    }
}

impl FromStr for EventPattern {
    type Err = Fault;

    /// A pattern that no known type matches is a mistake.
    fn from_str(text: &str) -> Result<Self, Fault> {
        let pattern = Self(text.to_owned());
        if EventType::ALL.iter().any(|kind| pattern.matches(kind.as_str())) {
            return Ok(pattern);
        }
        let known: Vec<_> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        let rule = "must be an event type, or the beginning of some with * behind it";
        Err(Fault::new(format!("{rule}; the types are {}", known.join(", "))))
    }
}

/// What matches any of them; where there is none, everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPatterns(Vec<EventPattern>);

impl EventPatterns {
    /// Names each pattern at fault as `field[i]`.
    pub fn parse(field: &str, texts: &[String]) -> Result<Self, Violations> {
        if texts.len() > EVENT_PATTERNS_MAX {
            return Err((field, Fault::new(format!("must have at most {EVENT_PATTERNS_MAX} entries"))).into());
        }
        let mut faults = Violations::default();
        let parse = |(index, text): (usize, &String)| faults.take(&format!("{field}[{index}]"), text.parse());
        let patterns = texts.iter().enumerate().filter_map(parse).collect();
        faults.into_result(Some(Self(patterns)))
    }

    /// As they were kept: a type that this release does not know is a newer one's, and matches nothing else.
    pub fn kept(texts: Vec<String>) -> Self {
        Self(texts.into_iter().map(EventPattern).collect())
    }

    pub fn matches(&self, kind: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(kind))
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(EventPattern::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Result<EventPatterns, Violations> {
        EventPatterns::parse("types", &texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_type_is_matched_by_itself_by_its_beginning_and_by_no_pattern_at_all() {
        for (given, matched, other) in [
            (&["ai_session.ended"][..], "ai_session.ended", "ai_session.transferred"),
            (&["ai_session.*"], "ai_session.transferred", "lead.updated"),
            (&["lead.updated", "ai_session.e*"], "ai_session.escalated", "ai_session.transferred"),
        ] {
            let patterns = patterns(given).expect("known");
            assert!(patterns.matches(matched) && !patterns.matches(other), "{given:?}");
        }
        for everything in [&[][..], &["*"]] {
            assert!(patterns(everything).expect("known").matches("lead.updated"), "{everything:?}");
        }
    }

    #[test]
    fn every_pattern_that_nothing_matches_is_named() {
        let faults = patterns(&["lead.updated", "lead.deleted", "lead.*", "laed.*", "", "*.ended"]).expect_err("three");
        let named: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, ["types[1]", "types[3]", "types[4]", "types[5]"]);
        let many = vec!["*"; EVENT_PATTERNS_MAX + 1];
        assert_eq!(patterns(&many).expect_err("too many").iter().next().expect("one").field, "types");
    }

    #[test]
    fn what_is_kept_of_a_newer_release_never_becomes_everything() {
        let kept = EventPatterns::kept(vec!["call.forgotten".into()]);
        assert!(kept.matches("call.forgotten") && !kept.matches("lead.updated"));
    }
}
