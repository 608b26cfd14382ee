//! What is wrong with a request: every field at fault at once.

/// Why one value was refused. `reason` is stable, `description` is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: &'static str,
    pub description: String,
}

impl Fault {
    pub fn new(description: impl Into<String>) -> Self {
        Self { reason: "FIELD_INVALID", description: description.into() }
    }

    pub fn required() -> Self {
        Self { reason: "FIELD_REQUIRED", description: "is required".into() }
    }

    pub fn read_only() -> Self {
        Self { reason: "FIELD_READ_ONLY", description: "is set by the service and cannot be written".into() }
    }

    pub fn unknown() -> Self {
        Self { reason: "FIELD_UNKNOWN", description: "is not a field of this message".into() }
    }
}

/// One field at fault, named by its path in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub field: String,
    pub fault: Fault,
}

/// Collects faults while a request is parsed, so that the caller hears of all of them together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<Violation>);

impl Violations {
    pub fn add(&mut self, field: impl Into<String>, fault: Fault) {
        self.0.push(Violation { field: field.into(), fault });
    }

    /// Keeps a good value; notes a bad one and answers nothing.
    pub fn take<T>(&mut self, field: &str, parsed: Result<T, Fault>) -> Option<T> {
        parsed.map_err(|fault| self.add(field, fault)).ok()
    }

    /// Takes over the faults of a part, its paths behind `prefix.`; a fault of the part as a whole is one of `prefix`.
    pub fn absorb(&mut self, prefix: &str, part: Self) {
        self.0.extend(part.0.into_iter().map(|violation| Violation {
            field: match (prefix, violation.field.as_str()) {
                ("", _) => violation.field,
                (_, "") => prefix.to_owned(),
                (_, inner) => format!("{prefix}.{inner}"),
            },
            fault: violation.fault,
        }));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Violation> {
        self.0.iter()
    }

    /// The fields at fault in one line, for the error's message.
    pub fn summary(&self) -> String {
        let one = |violation: &Violation| format!("{} {}", violation.field, violation.fault.description);
        let listed = self.0.iter().take(3).map(one).collect::<Vec<_>>().join("; ");
        match self.0.len() {
            0..=3 => listed,
            all => format!("{listed}; and {} more", all - 3),
        }
    }

    /// `value` when nothing was at fault. It is `Some` then, because only a fault makes it `None`.
    pub fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

/// A single fault, as a whole answer.
impl From<(&str, Fault)> for Violations {
    fn from((field, fault): (&str, Fault)) -> Self {
        let mut violations = Self::default();
        violations.add(field, fault);
        violations
    }
}
