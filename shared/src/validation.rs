//! Reads untrusted JSON and query parameters into types, and collects every fault on the way.

use serde_json::{Map, Value};

use crate::error::{Error, Fault};

/// A type that a JSON value can be read into, with a rule of its own.
pub trait Field: Sized {
    /// What the value must be; the message of the fault when it is not.
    const RULE: &'static str;

    /// The same as a sentence that stands alone, for a client that shows nothing but that.
    fn fault(field: &str) -> String {
        format!("{} {}", title(field), Self::RULE)
    }

    /// Reads the value; `None` when it breaks the rule.
    fn read(value: Value) -> Option<Self>;
}

/// A field's name as people write it: "Account name" for "accountName".
fn title(field: &str) -> String {
    let mut title = String::with_capacity(field.len() + 2);
    for (place, letter) in field.char_indices() {
        match letter {
            letter if place == 0 => title.push(letter.to_ascii_uppercase()),
            letter if letter.is_ascii_uppercase() => title.extend([' ', letter.to_ascii_lowercase()]),
            letter => title.push(letter),
        }
    }
    title
}

impl Field for bool {
    const RULE: &'static str = "must be true or false";

    /// "Is sync enabled must be true" would be no sentence.
    fn fault(field: &str) -> String {
        format!("{field} {}", Self::RULE)
    }

    fn read(value: Value) -> Option<Self> {
        value.as_bool()
    }
}

/// The fields of a JSON object, taken one by one.
///
/// Take all of them, then ask for [`Fields::finish`]: a client learns of all faults at once.
pub struct Fields {
    object: Map<String, Value>,
    faults: Vec<Fault>,
}

impl Fields {
    /// Over the object that a client sent. Fields that nobody takes are ignored.
    pub fn new(object: Map<String, Value>) -> Self {
        Self { object, faults: Vec::new() }
    }

    /// What has not been taken.
    pub(crate) fn object(&self) -> &Map<String, Value> {
        &self.object
    }

    /// Takes a field that must be there. `None` stands for a fault that was noted.
    pub fn required<T: Field>(&mut self, field: &'static str) -> Option<T> {
        let value = self.optional(field);
        if value.is_none() && !self.faults.iter().any(|fault| fault.field == field) {
            self.faults.push(Fault::missing(field, format!("is required and {}", T::RULE)));
        }
        value
    }

    /// Takes a field that may be missing. `None` stands for that, or for a fault that was noted; `null` is a
    /// fault.
    pub fn optional<T: Field>(&mut self, field: &'static str) -> Option<T> {
        let value = self.object.remove(field)?;
        let read = T::read(value);
        if read.is_none() {
            self.faults.push(Fault::new(field, T::RULE, T::fault(field)));
        }
        read
    }

    /// Takes a field that may be missing or `null`, which are told apart: `None` is missing, or a fault that was
    /// noted, `Some(None)` is `null`.
    pub fn nullable<T: Field>(&mut self, field: &'static str) -> Option<Option<T>> {
        match self.object.get(field) {
            Some(Value::Null) => self.object.remove(field).map(|_| None),
            _ => self.optional(field).map(Some),
        }
    }

    /// Takes a list of at most `most` objects, which may be missing or `null`, and reads each with `read`. A fault is noted
    /// under its place in the list; what has one is left out.
    pub fn list<T>(&mut self, field: &'static str, most: usize, read: impl Fn(&mut Fields) -> Option<T>) -> Vec<T> {
        let values = match self.object.remove(field) {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(values)) if values.len() <= most => values,
            Some(_) => {
                let rule = format!("must be a list of at most {most} objects");
                let sentence = format!("{} {rule}", title(field));
                self.faults.push(Fault::new(field, rule, sentence));
                return Vec::new();
            }
        };
        let mut items = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let Value::Object(object) = value else {
                let place = format!("{field}[{index}]");
                let sentence = format!("{place} must be an object");
                self.faults.push(Fault::new(place, "must be an object", sentence));
                continue;
            };
            let mut fields = Fields::new(object);
            items.extend(read(&mut fields));
            self.faults.extend(fields.faults.into_iter().map(|fault| fault.within(field, index)));
        }
        items
    }

    /// Notes a fault that the reader alone can see; after another one of the same field it is not noted.
    pub fn refuse(&mut self, fault: Fault) {
        if !self.faults.iter().any(|known| known.field == fault.field) {
            self.faults.push(fault);
        }
    }

    /// Whether a fault was noted in a field, or in something within it.
    pub(crate) fn has_fault_in(&self, field: &str) -> bool {
        self.faults.iter().any(|fault| fault.field.starts_with(field))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault that was noted.
    pub fn finish(self) -> Result<(), Error> {
        if self.faults.is_empty() { Ok(()) } else { Err(Error::Invalid(self.faults)) }
    }
}

/// Reads a whole number within `range`. JSON has one kind of number, so 993.0 is as whole as 993.
pub fn whole(value: &Value, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let number = value.as_f64()?;
    // The cast saturates: what is too large stays out of range.
    let whole = number as i64;
    (range.contains(&whole) && whole as f64 == number).then_some(whole)
}

/// Reads a query parameter; `None` where there is none.
///
/// # Errors
/// A fault when it breaks its rule, or is given more than once.
pub fn parameter<T: Field>(query: &[(String, String)], field: &'static str) -> Result<Option<T>, Fault> {
    let Some(value) = once(query, field)? else { return Ok(None) };
    let read = T::read(Value::String(value.to_owned()));
    read.map(Some).ok_or_else(|| Fault::new(field, T::RULE, T::fault(field)))
}

/// Reads a query parameter that is `true` or `false`, in any letter case; `None` where there is none.
///
/// # Errors
/// A fault when it is neither, or is given more than once.
pub fn flag(query: &[(String, String)], field: &'static str) -> Result<Option<bool>, Fault> {
    let Some(value) = once(query, field)? else { return Ok(None) };
    value.to_ascii_lowercase().parse().map(Some).map_err(|_| Fault::new(field, bool::RULE, bool::fault(field)))
}

/// The value of a query parameter.
fn once<'a>(query: &'a [(String, String)], field: &'static str) -> Result<Option<&'a str>, Fault> {
    let mut given = query.iter().filter(|(name, _)| name == field).map(|(_, value)| value.as_str());
    match (given.next(), given.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Fault::new(field, "must be given once", format!("{} must be given once", title(field)))),
    }
}

/// What was read; a fault goes to the others.
pub fn noted<T>(read: Result<Option<T>, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    read.unwrap_or_else(|fault| {
        faults.push(fault);
        None
    })
}

/// Reads a whole-number query parameter.
///
/// # Errors
/// A fault when it is not a plain decimal number within `range`, or is given more than once.
pub fn whole_number(
    query: &[(String, String)],
    field: &'static str,
    default: i64,
    range: std::ops::RangeInclusive<i64>,
) -> Result<i64, Fault> {
    let Some(value) = once(query, field)? else { return Ok(default) };
    // `parse` alone would let "+5" pass.
    let number = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok()).flatten();
    number.filter(|n| range.contains(n)).ok_or_else(|| {
        let (start, end) = range.into_inner();
        let title = title(field);
        match end {
            i64::MAX => Fault::new(
                field,
                format!("must be a whole number of {start} or more"),
                format!("{title} must be {start} or more"),
            ),
            end => Fault::new(
                field,
                format!("must be a whole number from {start} to {end}"),
                format!("{title} must be between {start} and {end}"),
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn all_faults_are_reported_in_the_order_of_reading() {
        let mut fields = fields(json!({"b": 1, "c": null, "d": true, "e": "ignored"}));
        assert_eq!(fields.required::<bool>("a"), None);
        assert_eq!(fields.required::<bool>("b"), None);
        assert_eq!(fields.optional::<bool>("c"), None);
        assert_eq!(fields.optional::<bool>("d"), Some(true));
        let error = fields.finish().unwrap_err();
        assert_eq!(error.to_string(), "Missing required fields: a; b must be true or false; c must be true or false");
        let Error::Invalid(faults) = error else { panic!("no faults") };
        let faults: Vec<_> = faults.iter().map(|f| (&*f.field, &*f.message)).collect();
        assert_eq!(faults, [("a", "is required and must be true or false"), ("b", bool::RULE), ("c", bool::RULE)]);
    }

    #[test]
    fn null_is_a_value_where_it_may_be() {
        let mut fields = fields(json!({"a": null, "b": true, "c": 1}));
        assert_eq!(fields.nullable::<bool>("a"), Some(None));
        assert_eq!(fields.nullable::<bool>("b"), Some(Some(true)));
        assert_eq!(fields.nullable::<bool>("c"), None);
        assert_eq!(fields.nullable::<bool>("d"), None);
        let Err(Error::Invalid(faults)) = fields.finish() else { panic!("no faults") };
        assert_eq!(faults.len(), 1);
    }

    #[test]
    fn faults_in_a_list_say_where_they_are() {
        let read = |value: Value| {
            let mut fields = fields(value);
            let items = fields.list("to", 3, |item| item.required::<bool>("isIn"));
            (items, fields.finish())
        };
        for (value, items) in [
            (json!({}), vec![]),
            (json!({"to": null}), vec![]),
            (json!({"to": []}), vec![]),
            (json!({"to": [{"isIn": true}, {"isIn": false, "other": 1}]}), vec![true, false]),
        ] {
            let (read, outcome) = read(value);
            assert_eq!((read, outcome.is_ok()), (items, true));
        }
        let (items, outcome) = read(json!({"to": [{"isIn": 1}, {}, 7]}));
        assert!(items.is_empty());
        let error = outcome.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Missing required fields: to[1].isIn; to[0]: isIn must be true or false; to[2] must be an object"
        );
        let Error::Invalid(faults) = error else { panic!("no faults") };
        assert_eq!(faults.iter().map(|f| &*f.field).collect::<Vec<_>>(), ["to[0].isIn", "to[1].isIn", "to[2]"]);
        for bad in [json!({"to": {}}), json!({"to": "x"}), json!({"to": [{}, {}, {}, {}]})] {
            assert_eq!(read(bad).1.unwrap_err().to_string(), "To must be a list of at most 3 objects");
        }
    }

    fn query(value: &str) -> Vec<(String, String)> {
        vec![("limit".into(), value.into())]
    }

    #[test]
    fn numbers_are_plain_and_within_range() {
        let limit = |value: &str| whole_number(&query(value), "limit", 100, 1..=1000);
        assert_eq!(whole_number(&[], "limit", 100, 1..=1000), Ok(100));
        assert_eq!((limit("1"), limit("1000")), (Ok(1), Ok(1000)));
        for bad in ["", "0", "1001", "-1", "+5", "1.0", "1e2", " 1", "0x10", "٣", "99999999999999999999999"] {
            assert!(limit(bad).is_err(), "{bad:?}");
        }
        let twice = [query("1"), query("2")].concat();
        assert!(whole_number(&twice, "limit", 100, 1..=1000).is_err());
    }

    #[test]
    fn a_bad_parameter_says_what_it_must_be() {
        let limit = |value: &str| whole_number(&query(value), "limit", 100, 1..=1000).unwrap_err();
        assert_eq!(Error::Invalid(vec![limit("x")]).to_string(), "Limit must be between 1 and 1000");
        let offset = whole_number(&[("offset".into(), "-1".into())], "offset", 0, 0..=i64::MAX).unwrap_err();
        assert_eq!(
            Error::Invalid(vec![limit("0"), offset]).to_string(),
            "Limit must be between 1 and 1000; Offset must be 0 or more"
        );
        let twice = whole_number(&[query("1"), query("2")].concat(), "limit", 100, 1..=1000).unwrap_err();
        assert_eq!(Error::Invalid(vec![twice]).to_string(), "Limit must be given once");
    }

    #[test]
    fn flags_are_true_or_false() {
        let flag = |value: &str| flag(&query(value), "limit");
        assert_eq!(
            (flag("true"), flag("False"), super::flag(&[], "limit")),
            (Ok(Some(true)), Ok(Some(false)), Ok(None))
        );
        for bad in ["", "1", "yes", " true", "null"] {
            assert_eq!(
                Error::Invalid(vec![flag(bad).unwrap_err()]).to_string(),
                "limit must be true or false",
                "{bad}"
            );
        }
    }

    #[test]
    fn names_read_as_people_write_them() {
        assert_eq!((title("port"), title("accountName"), title("")), ("Port".into(), "Account name".into(), "".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_number_in_range_or_a_fault(text in ".*") {
            if let Ok(number) = whole_number(&query(&text), "limit", 100, 1..=1000) {
                prop_assert!((1..=1000).contains(&number));
                prop_assert_eq!(text.trim_start_matches('0'), number.to_string());
            }
        }
    }
}
