//! The failures that a node is told to have: rules of the form `VERB:FAILURE[:N]`.
//!
//! Of a command that the node has not carried out yet, the first rule decides that names its verb and is not used up.
//! A known command is answered from memory, whatever the script says.

use std::{str::FromStr, time::Duration};

use super::verbs;
use crate::domain::verb::VerbName;

/// An acknowledgement that comes later than this comes never.
pub const SLOWEST: Duration = Duration::from_hours(1);

const FAILURES: &str = "slow=MS, reject, ignore, disconnect, duplicate-ack";

/// What a node does instead of carrying a command out and acknowledging it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Carries it out and acknowledges it so much later.
    Slow(Duration),
    /// Refuses it with reason `NODE_REJECTED`.
    Reject,
    /// Neither carries it out nor acknowledges it.
    Ignore,
    /// Carries it out and drops the stream before it acknowledges it.
    Disconnect,
    /// Carries it out and acknowledges it twice.
    DuplicateAck,
}

/// One `VERB:FAILURE[:N]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Nothing: every verb.
    verb: Option<VerbName>,
    failure: Failure,
    /// For how many commands yet; nothing: for ever.
    left: Option<u32>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("must be VERB:FAILURE or VERB:FAILURE:N, such as transfer:reject or '*:disconnect:1'")]
    Rule,
    #[error("{0:?} is no verb of a node: * or one of {names}", names = verb_words())]
    Verb(String),
    #[error("{0:?} is no failure: one of {FAILURES}")]
    Failure(String),
    #[error("{0:?} is no delay: slow=MS takes 1 to {most} milliseconds", most = SLOWEST.as_millis())]
    Delay(String),
    #[error("{0:?} is no number of commands: 1 or more")]
    Count(String),
}

impl FromStr for Rule {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut parts = text.split(':');
        let (verb, failure) = parts.next().zip(parts.next()).ok_or(Malformed::Rule)?;
        let left = parts.next().map(count).transpose()?;
        if parts.next().is_some() {
            return Err(Malformed::Rule);
        }
        let verb = match verb {
            "*" => None,
            verb => Some(named(verb).ok_or_else(|| Malformed::Verb(verb.to_owned()))?),
        };
        Ok(Self { verb, failure: failure.parse()?, left })
    }
}

impl FromStr for Failure {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.split_once('=') {
            Some(("slow", delay)) => {
                let ms = delay.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis);
                let delay = ms.filter(|ms| *ms <= SLOWEST).ok_or_else(|| Malformed::Delay(delay.to_owned()))?;
                Ok(Self::Slow(delay))
            }
            None if text == "slow" => Err(Malformed::Delay(String::new())),
            None if text == "reject" => Ok(Self::Reject),
            None if text == "ignore" => Ok(Self::Ignore),
            None if text == "disconnect" => Ok(Self::Disconnect),
            None if text == "duplicate-ack" => Ok(Self::DuplicateAck),
            _ => Err(Malformed::Failure(text.to_owned())),
        }
    }
}

fn count(text: &str) -> Result<u32, Malformed> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| Malformed::Count(text.to_owned()))
}

fn named(verb: &str) -> Option<VerbName> {
    verbs::ALL.into_iter().find(|name| word(*name) == verb)
}

fn word(verb: VerbName) -> String {
    verb.as_str().to_ascii_lowercase()
}

fn verb_words() -> String {
    verbs::ALL.map(word).join(", ")
}

/// All rules, in the order given.
#[derive(Debug, Clone, Default)]
pub struct Script(Vec<Rule>);

impl From<Vec<Rule>> for Script {
    fn from(rules: Vec<Rule>) -> Self {
        Self(rules)
    }
}

impl Script {
    /// How the node fails with a command of this verb, which uses the rule up by one.
    pub(super) fn decide(&mut self, verb: VerbName) -> Option<Failure> {
        let decides = |rule: &&mut Rule| rule.verb.is_none_or(|named| named == verb) && rule.left != Some(0);
        let rule = self.0.iter_mut().find(decides)?;
        rule.left = rule.left.map(|left| left - 1);
        Some(rule.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|malformed| panic!("{text}: {malformed}"))
    }

    #[test]
    fn a_rule_names_a_verb_a_failure_and_for_how_many_commands() {
        let transfer = Rule { verb: Some(VerbName::Transfer), failure: Failure::Reject, left: None };
        assert_eq!(rule("transfer:reject"), transfer);
        let dtmf = Rule { verb: Some(VerbName::SendDtmf), failure: Failure::Disconnect, left: Some(3) };
        assert_eq!(rule("send_dtmf:disconnect:3"), dtmf);
        assert_eq!(rule("*:duplicate-ack"), Rule { verb: None, failure: Failure::DuplicateAck, left: None });
        let slow = Failure::Slow(Duration::from_millis(1_500));
        assert_eq!(rule("*:slow=1500:1"), Rule { verb: None, failure: slow, left: Some(1) });
        assert_eq!(rule("hold:ignore").failure, Failure::Ignore);
    }

    #[test]
    fn a_malformed_rule_is_told_what_is_allowed() {
        for (text, told) in [
            ("", "VERB:FAILURE"),
            ("reject", "VERB:FAILURE"),
            ("hold:reject:1:2", "VERB:FAILURE"),
            (":reject", "hold, monitor_start"),
            ("dance:reject", "\"dance\" is no verb of a node: * or one of barge, conference_add"),
            ("Hold:reject", "send_dtmf"),
            // The control plane alone carries it out.
            ("set_disposition:reject", "monitor_start"),
            ("hold:", "slow=MS, reject, ignore, disconnect, duplicate-ack"),
            ("hold:explode", "\"explode\" is no failure"),
            ("hold:reject=1", "\"reject=1\" is no failure"),
            ("hold:slow", "1 to 3600000 milliseconds"),
            ("hold:slow=0", "1 to 3600000 milliseconds"),
            ("hold:slow=3600001", "\"3600001\" is no delay"),
            ("hold:slow=2s", "milliseconds"),
            ("hold:reject:", "1 or more"),
            ("hold:reject:0", "\"0\" is no number of commands"),
            ("hold:reject:-1", "1 or more"),
        ] {
            let malformed = text.parse::<Rule>().expect_err(text).to_string();
            assert!(malformed.contains(told), "{text}: {malformed}");
        }
    }

    #[test]
    fn the_first_rule_decides_that_names_the_verb_and_is_not_used_up() {
        let rules = ["hold:reject:2", "*:disconnect:1", "hold:ignore"];
        let mut script = Script::from(rules.map(rule).to_vec());
        let mut held = || script.decide(VerbName::Hold);
        assert_eq!([held(), held()], [Some(Failure::Reject); 2]);
        assert_eq!(held(), Some(Failure::Disconnect));
        assert_eq!([held(), held()], [Some(Failure::Ignore); 2]);
        assert_eq!(script.decide(VerbName::Mute), None, "the rule for every verb is used up");
    }
}
