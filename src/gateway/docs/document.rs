//! Completes the OpenAPI document at startup: the paths below `/app-id` are copies of those below
//! `/{org_name}/{app_name}`, and each answer becomes a schema of its own with a name.
//!
//! In the source, an answer is the vendor's envelope and what the operation adds (`allOf`).
//! Generators of clients merge such parts wrongly or not at all, so they are merged here.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

const BY_NAME: &str = "/{org_name}/{app_name}";
const BY_ID: &str = "/app-id/{app_id}";
const BY_ID_TAG: &str = "Agora: the same by app id";

/// The document, with the program's version.
pub(super) fn document() -> Value {
    let mut document: Value =
        serde_json::from_str(include_str!("openapi.json")).unwrap_or_default();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    if let Some(tags) = document["tags"].as_array_mut() {
        tags.push(json!({
            "name": BY_ID_TAG,
            "description": "The same operations for an app whose key has one part.",
        }));
    }
    name_answers(&mut document);
    if let Some(paths) = document["paths"].as_object_mut() {
        let copy = |(path, item): (&String, &Value)| {
            Some((format!("{BY_ID}{}", path.strip_prefix(BY_NAME)?), by_id(item.clone())))
        };
        let copies: Map<_, _> = paths.iter().filter_map(copy).collect();
        paths.extend(copies);
    }
    document
}

/// Moves the schema of each operation's success to the named schemas, merged.
fn name_answers(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    let mut answers = Map::new();
    let items = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in items.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let name = operation["operationId"].as_str().map(answer_name);
        let pointer = "/responses/200/content/application~1json/schema";
        if let Some((name, schema)) = name.zip(operation.pointer_mut(pointer)) {
            let reference = json!({"$ref": format!("#/components/schemas/{name}")});
            let answer = std::mem::replace(schema, reference);
            answers.insert(name, merged(answer, &schemas));
        }
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(answers);
    }
}

/// `MuteMembersAnswer` of `muteMembers`.
fn answer_name(operation: &str) -> String {
    let (first, rest) = operation.split_at(operation.len().min(1));
    format!("{}{rest}Answer", first.to_uppercase())
}

/// A schema without `allOf`: one object with the fields of all parts, of which the last counts.
fn merged(schema: Value, schemas: &Value) -> Value {
    let Value::Object(mut fields) = schema else { return schema };
    let Some(Value::Array(parts)) = fields.remove("allOf") else {
        let fields = fields.into_iter().map(|(name, field)| (name, merged(field, schemas)));
        return Value::Object(fields.collect());
    };
    let mut properties = Map::new();
    let mut required = BTreeSet::new();
    for part in parts {
        let reference = part["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        let part = merged(reference.map_or(&part, |name| &schemas[name]).clone(), schemas);
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        let names = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        required.extend(names.map(str::to_owned));
    }
    json!({"type": "object", "required": required, "properties": properties})
}

/// A part of the document, changed for the paths that name an app by its id.
fn by_id(part: Value) -> Value {
    match part {
        Value::Object(mut fields) => {
            if let Some(Value::String(id)) = fields.get_mut("operationId") {
                id.push_str("ById");
            }
            if let Some(tags) = fields.get_mut("tags") {
                *tags = json!([BY_ID_TAG]);
            }
            // The parameters of a link.
            if fields.remove("org_name").is_some() {
                fields.remove("app_name");
                fields.insert("app_id".to_owned(), json!("$request.path.app_id"));
            }
            fields.into_iter().map(|(name, field)| (name, by_id(field))).collect()
        }
        Value::Array(items) => {
            let is_organization = |item: &Value| item["$ref"] == "#/components/parameters/OrgName";
            items.into_iter().filter(|item| !is_organization(item)).map(by_id).collect()
        }
        Value::String(text) => match text.as_str() {
            "#/components/parameters/AppName" => json!("#/components/parameters/AppId"),
            // Its example is a room of dev mode's app with a one-word key.
            "#/components/parameters/Chatroom" => json!("#/components/parameters/Room"),
            _ => Value::String(text),
        },
        other => other,
    }
}
