//! The kinds of value that a session's results may hold.

use crate::domain::violations::Fault;

/// One value of an `output_schema`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputType {
    Text,
    Number,
    Boolean,
    Date,
    /// One of these; blanks around a choice do not count.
    Enum(Vec<String>),
}

impl OutputType {
    pub fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "text" => Ok(Self::Text),
            "number" => Ok(Self::Number),
            "boolean" => Ok(Self::Boolean),
            "date" => Ok(Self::Date),
            _ => text.strip_prefix("enum:").ok_or_else(fault).and_then(choices).map(Self::Enum),
        }
    }
}

fn fault() -> Fault {
    Fault::new("must be text, number, boolean, date or enum: with choices between commas")
}

fn choices(list: &str) -> Result<Vec<String>, Fault> {
    let choices: Vec<String> = list.split(',').map(|choice| choice.trim().to_owned()).collect();
    if choices.iter().any(String::is_empty) {
        return Err(Fault::new("must not have an empty choice after enum:"));
    }
    if choices.iter().flat_map(|choice| choice.chars()).any(char::is_control) {
        return Err(Fault::new("must not contain control characters"));
    }
    match choices.iter().enumerate().find(|(index, choice)| choices[..*index].contains(choice)) {
        Some(_) => Err(Fault::new("must not have a choice twice after enum:")),
        None => Ok(choices),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enum_has_choices_that_differ() {
        assert_eq!(OutputType::parse("enum:a, b"), Ok(OutputType::Enum(vec!["a".into(), "b".into()])));
        for bad in
            ["", "Text", "enum", "enum:", "enum: ", "enum:a,", "enum:,a", "enum:a, a", "enum:a\n,b\u{7}c", "string"]
        {
            assert!(OutputType::parse(bad).is_err(), "{bad:?}");
        }
    }
}
