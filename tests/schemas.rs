//! The published contract in `schemas/`: it is valid, complete and says what its examples show.
//! Reads files only; never the network.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMAS: [&str; 5] = ["card-record", "command", "completion", "completion-headers", "dead-letter-headers"];

/// The closed set of error codes of completions.
const ERROR_CODES: [&str; 13] = [
    "unknown_field",
    "duplicate_field",
    "missing_field",
    "invalid_type",
    "invalid_card_id",
    "key_mismatch",
    "too_many_accounts",
    "invalid_account_type",
    "invalid_currency",
    "invalid_iban",
    "request_id_conflict",
    "duplicate_request",
    "stale_command",
];

/// The closed set of reasons of dead letters.
const DEAD_LETTER_REASONS: [&str; 5] =
    ["empty_value", "payload_too_large", "malformed_json", "not_an_object", "invalid_request_id"];

// Schemas

#[test]
fn every_schema_file_is_known_to_these_tests() {
    let files: BTreeSet<String> =
        file_names(&schemas_dir()).into_iter().filter(|name| name.ends_with(".json")).collect();
    let known: BTreeSet<String> = SCHEMAS.iter().map(|name| schema_file(name)).collect();
    assert_eq!(files, known);
}

#[test]
fn every_schema_is_valid_2020_12_and_named_after_its_file() {
    for name in SCHEMAS {
        let schema = schema(name);
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert_eq!(schema["$id"], schema_file(name), "{name}");
        if let Err(error) = jsonschema::draft202012::meta::validate(&schema) {
            panic!("{name}: {error} at {}", error.instance_path());
        }
    }
}

#[test]
fn a_schema_stands_alone() {
    for name in SCHEMAS {
        let schema = schema(name);
        for reference in references(&schema) {
            assert!(reference.starts_with('#'), "{name}: {reference}");
            assert_resolves(&schemas_dir().join(schema_file(name)), &schema, &reference);
        }
    }
}

#[test]
fn every_field_is_described() {
    for name in SCHEMAS {
        let schema = schema(name);
        assert!(is_described(&schema), "{name}");
        for (pointer, field) in declared_fields(&schema, "") {
            assert!(is_described(&field), "{name}{pointer}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_everywhere_but_among_the_original_headers_of_a_dead_letter() {
    for name in SCHEMAS {
        for (pointer, object) in declared_objects(&schema(name), "") {
            let strict = object["additionalProperties"] == json!(false);
            assert_eq!(strict, name != "dead-letter-headers", "{name}{pointer}: additionalProperties");
        }
    }
}

// Closed sets

#[test]
fn the_error_codes_are_exactly_the_closed_set() {
    let schema = schema("completion");
    assert_eq!(enumerated(&schema, "/$defs/error/properties/code/enum"), ERROR_CODES);
    // A rule that names a code outside the set would never apply.
    for code in enumerated(&schema, "/allOf/2/if/properties/error/properties/code/enum") {
        assert!(ERROR_CODES.contains(&code.as_str()), "{code}");
    }
}

#[test]
fn the_dead_letter_reasons_are_exactly_the_closed_set() {
    assert_eq!(enumerated(&schema("dead-letter-headers"), "/properties/dlq-reason/enum"), DEAD_LETTER_REASONS);
}

#[test]
fn a_completion_may_carry_every_error_code_and_a_dead_letter_every_reason() {
    let completion = validator("completion");
    for code in ERROR_CODES {
        let mut value = example("completion", "valid-error");
        value["error"]["code"] = json!(code);
        if code == "invalid_card_id" {
            value.as_object_mut().unwrap().remove("card_id");
        }
        assert_valid(&completion, &value, code);
    }
    let dead_letter = validator("dead-letter-headers");
    for reason in DEAD_LETTER_REASONS {
        let mut value = example("dead-letter-headers", "valid-malformed");
        value["dlq-reason"] = json!(reason);
        assert_valid(&dead_letter, &value, reason);
    }
}

// Examples

#[test]
fn every_example_belongs_to_a_schema_and_says_whether_it_is_valid() {
    assert_eq!(file_names(&schemas_dir().join("examples")), SCHEMAS);
    for name in SCHEMAS {
        let examples = file_names(&examples_dir(name));
        let count = |prefix: &str| examples.iter().filter(|n| n.starts_with(prefix)).count();
        assert!(count("valid-") > 0 && count("invalid-") > 0, "{name}");
        assert_eq!(count("valid-") + count("invalid-"), examples.len(), "{name}: {examples:?}");
    }
}

#[test]
fn every_valid_example_validates() {
    for name in SCHEMAS {
        let validator = validator(name);
        for (file, value) in examples(name, "valid-") {
            assert_valid(&validator, &value, &format!("{name}/{file}"));
        }
    }
}

#[test]
fn every_invalid_example_breaks_exactly_one_rule() {
    for name in SCHEMAS {
        let validator = validator(name);
        for (file, value) in examples(name, "invalid-") {
            let errors = errors(&validator, &value);
            assert_eq!(errors.len(), 1, "{name}/{file}: {errors:?}");
        }
    }
}

#[test]
fn the_example_of_the_card_api_is_a_valid_command() {
    let value = json!({
        "request_id": "019ab688-bef2-72c4-6a29-d0e08be76d95",
        "card_id": "019ab688-bef2-72c4-6a29-d0e08be76d95",
        "accounts": [
            { "iban": "ES7921000813610123456789", "currency": "USD", "type": "IBAN" }
        ]
    });
    assert_eq!(example("command", "valid-api-example"), value);
    assert_valid(&validator("command"), &value, "the API's example");
}

// Edges too many for a file each

#[test]
fn a_command_names_at_most_100_accounts() {
    let validator = validator("command");
    let mut value = example("command", "valid-api-example");
    let account = value["accounts"][0].clone();
    value["accounts"] = json!(vec![account.clone(); 100]);
    assert_valid(&validator, &value, "100 accounts");
    value["accounts"] = json!(vec![account; 101]);
    assert!(!validator.is_valid(&value));
}

#[test]
fn dt_is_in_whole_seconds_with_a_numeric_offset_that_rfc_3339_allows() {
    let accepted = [
        "2025-01-01T05:01:01+05:00",
        "2025-01-01T05:01:01+00:30",
        "2025-01-01T00:00:00+00:00",
        "2025-01-01T00:00:00-00:00",
        "2024-02-29T23:59:59-23:59",
        "2024-12-31T23:59:59+23:59",
    ];
    let refused = [
        "2025-01-01T05:01:01Z",
        "2025-01-01T05:01:01z",
        "2025-01-01t05:01:01+05:00",
        "2025-01-01 05:01:01+05:00",
        "2025-01-01T05:01:01.5+05:00",
        "2025-01-01T05:01:01+0500",
        "2025-01-01T05:01:01+05",
        "2025-01-01T05:01:01",
        "2025-01-01T05:01:01+24:00",
        "2025-01-01T24:00:00+00:00",
        "2025-13-01T05:01:01+05:00",
        "2025-01-01T05:01:01+05:00\n",
    ];
    assert_field("completion", "valid-ok", "/dt", &accepted, &refused.map(String::from));
}

#[test]
fn a_uuid_of_any_version_and_variant_is_accepted_in_the_hyphenated_form_only() {
    let accepted = [
        "019ab688-bef2-72c4-6a29-d0e08be76d95",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ];
    let refused = [
        "",
        "019ab688bef272c46a29d0e08be76d95",
        "{019ab688-bef2-72c4-6a29-d0e08be76d95}",
        "urn:uuid:019ab688-bef2-72c4-6a29-d0e08be76d95",
        " 019ab688-bef2-72c4-6a29-d0e08be76d95",
        "019ab688-bef2-72c4-6a29-d0e08be76d95\n",
        "019ab688-bef2-72c4-6a29-d0e08be76d9",
        "019ab688-bef2-72c4-6a29-d0e08be76d9g",
    ]
    .map(String::from);
    for (name, file, pointer) in [
        ("command", "valid-api-example", "/request_id"),
        ("command", "valid-api-example", "/card_id"),
        ("completion", "valid-ok", "/request_id"),
        ("completion", "valid-ok", "/card_id"),
        ("card-record", "valid-one-account", "/card_id"),
        ("card-record", "valid-one-account", "/accounts/0/request_id"),
    ] {
        assert_field(name, file, pointer, &accepted, &refused);
        let upper = "019AB688-BEF2-72C4-6A29-D0E08BE76D95".to_string();
        if name == "command" {
            assert_field(name, file, pointer, &[&upper], &[]);
        } else {
            assert_field(name, file, pointer, &[], &[upper]);
        }
    }
}

#[test]
fn the_path_of_an_error_is_a_pointer_that_cannot_carry_a_value() {
    let accepted =
        ["", "/request_id", "/card_id", "/accounts", "/accounts/0", "/accounts/99/type", "/accounts/0/currency"];
    let refused = [
        "/",
        "accounts",
        "/accounts/",
        "/accounts/00",
        "/accounts/-",
        "/ES7921000813610123456789",
        "/accounts/0/ES7921000813610123456789",
    ]
    .map(String::from);
    assert_field("completion", "valid-error", "/error/path", &accepted, &refused);
}

#[test]
fn what_the_status_says_the_rest_of_a_completion_says_too() {
    let validator = validator("completion");
    let error = example("completion", "valid-error")["error"].clone();
    for status in ["ok", "error"] {
        for request_status in ["success", "error", "process"] {
            for has_error in [false, true] {
                let mut value = example("completion", "valid-ok");
                value["status"] = json!(status);
                value["request_status"] = json!(request_status);
                if has_error {
                    value["error"] = error.clone();
                }
                let expected =
                    matches!((status, request_status, has_error), ("ok", "success", false) | ("error", "error", true));
                assert_eq!(validator.is_valid(&value), expected, "{value}");
            }
        }
    }
}

// AsyncAPI

#[test]
fn asyncapi_describes_the_five_topics() {
    let document = asyncapi();
    assert_eq!(document["asyncapi"], "3.0.0");
    let channels = document["channels"].as_object().unwrap();
    let topics: BTreeSet<&str> = channels.values().map(|c| c["address"].as_str().unwrap()).collect();
    assert_eq!(
        topics,
        BTreeSet::from([
            "card-update.backfill",
            "card-update.cards",
            "card-update.commands",
            "card-update.completions",
            "card-update.dead-letters",
        ])
    );
    for (name, channel) in channels {
        let binding = &channel["bindings"]["kafka"];
        assert_eq!(binding["topic"], channel["address"], "{name}");
        let policy = if name == "cards" { "compact" } else { "delete" };
        assert_eq!(binding["topicConfiguration"]["cleanup.policy"], json!([policy]), "{name}");
    }
}

#[test]
fn asyncapi_uses_every_schema() {
    let used: BTreeSet<String> = references(&asyncapi())
        .iter()
        .filter_map(|r| r.split_once('#').map_or(Some(r.as_str()), |(file, _)| Some(file)))
        .filter(|file| !file.is_empty())
        .map(|file| file.trim_start_matches("./").to_string())
        .collect();
    let all: BTreeSet<String> = SCHEMAS.iter().map(|name| schema_file(name)).collect();
    assert_eq!(used, all);
}

#[test]
fn every_reference_of_asyncapi_leads_somewhere() {
    let document = asyncapi();
    let file = schemas_dir().join("asyncapi.yaml");
    let references = references(&document);
    assert!(!references.is_empty());
    for reference in references {
        assert_resolves(&file, &document, &reference);
    }
}

#[test]
fn every_operation_of_asyncapi_uses_messages_of_its_own_channel() {
    let document = asyncapi();
    for (name, operation) in document["operations"].as_object().unwrap() {
        for side in [operation, &operation["reply"]] {
            let Some(channel) = side["channel"]["$ref"].as_str() else {
                continue;
            };
            let messages = side["messages"].as_array().unwrap();
            assert!(!messages.is_empty(), "{name}");
            for message in messages {
                let message = message["$ref"].as_str().unwrap();
                assert!(message.starts_with(&format!("{channel}/messages/")), "{name}: {message}");
            }
        }
    }
}

// Reading

fn schemas_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn examples_dir(name: &str) -> PathBuf {
    schemas_dir().join("examples").join(name)
}

fn schema_file(name: &str) -> String {
    format!("{name}.schema.json")
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn schema(name: &str) -> Value {
    read_json(&schemas_dir().join(schema_file(name)))
}

/// A validator that also holds `format`, and can fetch nothing.
fn validator(name: &str) -> Validator {
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .offline()
        .build(&schema(name))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn example(name: &str, file: &str) -> Value {
    read_json(&examples_dir(name).join(format!("{file}.json")))
}

/// The examples of a schema whose file name starts with `prefix`, with that name.
fn examples(name: &str, prefix: &str) -> Vec<(String, Value)> {
    file_names(&examples_dir(name))
        .into_iter()
        .filter(|file| file.starts_with(prefix))
        .map(|file| (file.clone(), read_json(&examples_dir(name).join(file))))
        .collect()
}

fn asyncapi() -> Value {
    let path = schemas_dir().join("asyncapi.yaml");
    let text = fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("asyncapi.yaml: {error}"))
}

// Asserting

fn errors(validator: &Validator, value: &Value) -> Vec<String> {
    validator.iter_errors(value).map(|error| format!("{error} at '{}'", error.instance_path())).collect()
}

fn assert_valid(validator: &Validator, value: &Value, what: &str) {
    let errors = errors(validator, value);
    assert!(errors.is_empty(), "{what}: {errors:?}");
}

/// Puts each text in the place of a string of an example, and looks what becomes of it.
fn assert_field(name: &str, file: &str, pointer: &str, accepted: &[&str], refused: &[String]) {
    let validator = validator(name);
    let mut value = example(name, file);
    for text in accepted {
        *value.pointer_mut(pointer).unwrap() = json!(text);
        assert_valid(&validator, &value, &format!("{name}{pointer} = {text:?}"));
    }
    for text in refused {
        *value.pointer_mut(pointer).unwrap() = json!(text);
        assert!(!validator.is_valid(&value), "{name}{pointer} = {text:?}");
    }
}

fn enumerated(schema: &Value, pointer: &str) -> Vec<String> {
    let values = schema.pointer(pointer).and_then(Value::as_array).unwrap();
    values.iter().map(|value| value.as_str().unwrap().to_string()).collect()
}

/// Follows a `$ref` of `file`, whose content is `document`.
fn assert_resolves(file: &Path, document: &Value, reference: &str) {
    let (target, pointer) = reference.split_once('#').unwrap_or((reference, ""));
    let other;
    let root = if target.is_empty() {
        document
    } else {
        assert!(!target.contains(':'), "{reference}: not a file beside");
        other = read_json(&file.with_file_name(target.trim_start_matches("./")));
        &other
    };
    assert!(root.pointer(pointer).is_some(), "{}: {reference} leads nowhere", file.display());
}

// Walking

/// All values below `value` that are objects, itself included, with their JSON pointers.
fn objects(value: &Value, pointer: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    match value {
        Value::Object(members) => {
            found.push((pointer.to_string(), value.clone()));
            for (name, member) in members {
                found.extend(objects(member, &format!("{pointer}/{name}")));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                found.extend(objects(item, &format!("{pointer}/{index}")));
            }
        }
        _ => {}
    }
    found
}

fn references(value: &Value) -> Vec<String> {
    objects(value, "").iter().filter_map(|(_, object)| object["$ref"].as_str().map(String::from)).collect()
}

/// The schemas that declare an object's fields, those of conditions left out.
fn declared_objects(schema: &Value, pointer: &str) -> Vec<(String, Value)> {
    objects(schema, pointer).into_iter().filter(|(_, object)| object["type"] == "object").collect()
}

fn declared_fields(schema: &Value, pointer: &str) -> Vec<(String, Value)> {
    let mut fields = Vec::new();
    for (pointer, object) in declared_objects(schema, pointer) {
        for (name, field) in object["properties"].as_object().unwrap() {
            fields.push((format!("{pointer}/properties/{name}"), field.clone()));
        }
    }
    fields
}

fn is_described(schema: &Value) -> bool {
    schema["description"].as_str().is_some_and(|text| text.len() > 10)
}
