//! Parameters of the node: named, typed, frozen while active except a white list.

use crate::interface::{ParameterDescriptor, ParameterValue};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Type 1.
    Bool(bool),
    /// Type 2.
    Integer(i64),
    /// Type 3.
    Double(f64),
    /// Type 4.
    Text(String),
    /// Type 9.
    Texts(Vec<String>),
}

impl Value {
    /// The type's number.
    pub const fn kind(&self) -> u8 {
        match self {
            Self::Bool(_) => 1,
            Self::Integer(_) => 2,
            Self::Double(_) => 3,
            Self::Text(_) => 4,
            Self::Texts(_) => 9,
        }
    }

    /// The value in a message, if it is of a type used here.
    pub fn from_message(value: &ParameterValue) -> Option<Self> {
        Some(match value.r#type {
            1 => Self::Bool(value.bool_value),
            2 => Self::Integer(value.integer_value),
            3 => Self::Double(value.double_value),
            4 => Self::Text(value.string_value.to_owned()),
            9 => Self::Texts(value.string_array_value.iter().map(str::to_owned).collect()),
            _ => return None,
        })
    }

    /// As a message has it; an array of texts needs `texts`, which borrows from this value.
    pub fn to_message<'a>(&'a self, texts: &'a [&'a str]) -> ParameterValue<'a> {
        let mut message = ParameterValue { r#type: self.kind(), ..Default::default() };
        match self {
            Self::Bool(value) => message.bool_value = *value,
            Self::Integer(value) => message.integer_value = *value,
            Self::Double(value) => message.double_value = *value,
            Self::Text(value) => message.string_value = value,
            Self::Texts(_) => message.string_array_value = texts.into(),
        }
        message
    }

    /// The texts of an array of texts.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Self::Texts(texts) => texts.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Name.
    pub name: &'static str,
    /// For people.
    pub about: &'static str,
    /// Its value; another one is of the same type.
    pub value: Value,
    /// Whether it may be set while the node is active.
    pub is_live: bool,
    /// Whether it can be set at all.
    pub is_read_only: bool,
}

impl Parameter {
    /// As a message describes it.
    pub fn descriptor(&self) -> ParameterDescriptor<'_> {
        let constraint = if self.is_live { "" } else { "not while the node is active" };
        ParameterDescriptor {
            name: self.name,
            r#type: self.value.kind(),
            description: self.about,
            additional_constraints: constraint,
            read_only: self.is_read_only,
            ..Default::default()
        }
    }
}

/// Why a parameter is not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// No such parameter.
    #[error("there is no parameter {0:?}")]
    Unknown(String),
    /// It can never be set.
    #[error("{0:?} is read-only")]
    ReadOnly(String),
    /// It cannot be set now.
    #[error("{0:?} is frozen while the node is active: deactivate it first")]
    Frozen(String),
    /// The value is of another type.
    #[error("{name:?} is of type {needed}, and the value of type {got}")]
    Kind {
        /// The parameter.
        name: String,
        /// Its type.
        needed: u8,
        /// The value's.
        got: u8,
    },
}

/// The parameters of a node.
#[derive(Clone, Debug, Default)]
pub struct ParameterStore(Vec<Parameter>);

impl ParameterStore {
    /// These parameters.
    pub fn new(parameters: Vec<Parameter>) -> Self {
        Self(parameters)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.iter()
    }

    /// One by name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.iter().find(|parameter| parameter.name == name)
    }

    /// Whether a value may be set now.
    ///
    /// # Errors
    /// [`ParameterError`].
    pub fn check(&self, name: &str, value: Option<&Value>, kind: u8, is_active: bool) -> Result<(), ParameterError> {
        let parameter = self.get(name).ok_or_else(|| ParameterError::Unknown(name.to_owned()))?;
        if parameter.is_read_only {
            return Err(ParameterError::ReadOnly(name.to_owned()));
        }
        if is_active && !parameter.is_live {
            return Err(ParameterError::Frozen(name.to_owned()));
        }
        let needed = parameter.value.kind();
        match value {
            Some(value) if value.kind() == needed => Ok(()),
            _ => Err(ParameterError::Kind { name: name.to_owned(), needed, got: kind }),
        }
    }

    /// Sets a checked value.
    pub fn set(&mut self, name: &str, value: Value) {
        if let Some(parameter) = self.0.iter_mut().find(|parameter| parameter.name == name) {
            parameter.value = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_type_a_frozen_and_an_unknown_parameter_are_refused_by_name() {
        let parameter =
            |name, value, is_live, is_read_only| Parameter { name, about: "", value, is_live, is_read_only };
        let mut store = ParameterStore::new(vec![
            parameter("instruction", Value::Text("a".into()), true, false),
            parameter("diagnostics_hz", Value::Double(1.0), false, false),
            parameter("bundle", Value::Text("b".into()), false, true),
        ]);
        let check = |name, value: Value, active| {
            let kind = value.kind();
            store.check(name, Some(&value), kind, active).map_err(|error| error.to_string())
        };
        assert_eq!(check("instruction", Value::Text("x".into()), true), Ok(()));
        assert_eq!(check("diagnostics_hz", Value::Double(2.0), false), Ok(()));
        assert!(check("diagnostics_hz", Value::Double(2.0), true).unwrap_err().contains("frozen"));
        assert!(check("bundle", Value::Text("x".into()), false).unwrap_err().contains("read-only"));
        assert!(check("instruction", Value::Bool(true), false).unwrap_err().contains("type 4"));
        assert!(check("nothing", Value::Bool(true), false).unwrap_err().contains("\"nothing\""));
        store.set("instruction", Value::Text("pick".into()));
        assert_eq!(store.get("instruction").unwrap().value, Value::Text("pick".into()));
    }
}
