//! The operations that the node has carried out: a command that comes again is answered, not repeated.

use std::collections::{HashMap, VecDeque};

use crate::proto::v1::command_result::Result as Answer;

/// Enough for every command that a replica can have unacknowledged; the oldest are forgotten first.
const REMEMBERED: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Memory {
    answers: HashMap<String, Answer>,
    order: VecDeque<String>,
}

impl Memory {
    pub(super) fn answer_to(&self, operation: &str) -> Option<Answer> {
        self.answers.get(operation).cloned()
    }

    pub(super) fn keep(&mut self, operation: String, answer: Answer) {
        if self.answers.insert(operation.clone(), answer).is_none() {
            self.order.push_back(operation);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answers.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::CommandSucceeded;

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut memory = Memory::default();
        for number in 0..=REMEMBERED {
            memory.keep(number.to_string(), Answer::Succeeded(CommandSucceeded::default()));
        }
        assert_eq!((memory.answers.len(), memory.order.len()), (REMEMBERED, REMEMBERED));
        assert!(memory.answer_to("0").is_none() && memory.answer_to("1").is_some());
    }
}
