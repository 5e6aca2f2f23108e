//! The layers that `src/lib.rs` draws: which modules each module may use. The tests read the
//! sources, because a rule that no test checks is soon broken.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility,
    visit::{self, Visit},
};

/// The layers from the top down. A module may use only those below its own layer.
const FLOORS: [&[&str]; 12] = [
    &["cli"],
    &["app"],
    &["config", "ctl"],
    &["dev", "server"],
    &["gateway"],
    &["grpc"],
    &["service", "transfer"],
    &["sweep", "watch"],
    &["view"],
    &["auth", "store"],
    &["fetch", "limits", "model", "telemetry"],
    &["clock", "counted", "error", "files", "pem", "proto", "visible"],
];

/// A module or an item, from the root of the crate on.
type Names = Vec<String>;

/// Each source file with its text, without comments and the tests at its end.
fn sources() -> BTreeMap<String, String> {
    let code_of = |text: &str| {
        let code = text.split("#[cfg(test)]").next().unwrap();
        code.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    texts().into_iter().map(|(name, text)| (name, code_of(&text))).collect()
}

fn texts() -> BTreeMap<String, String> {
    let texts: BTreeMap<_, _> = crate::style::texts(&["src"], &["rs"])
        .into_iter()
        .map(|(name, text)| (name.trim_start_matches("src/").to_owned(), text))
        .collect();
    assert!(texts.len() > 30, "{:?}", texts.keys());
    texts
}

fn module_of(file: &str) -> Names {
    file.trim_end_matches(".rs").split('/').map(str::to_owned).collect()
}

/// All paths in the code of one file: those it uses, and those it only re-exports (`pub use`).
#[derive(Default)]
struct Paths {
    code: BTreeSet<Names>,
    shown: BTreeSet<Names>,
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        if !attributes(item).iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, import: &'a ItemUse) {
        let of = if matches!(import.vis, Visibility::Inherited) {
            &mut self.code
        } else {
            &mut self.shown
        };
        add_tree(of, &Vec::new(), &import.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.code.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// A visibility is not a use of the modules that it names.
    fn visit_visibility(&mut self, _: &'a Visibility) {}

    /// The input of a macro need not be Rust, so paths are found in its text.
    fn visit_macro(&mut self, call: &'a Macro) {
        self.visit_path(&call.path);
        let text = call.tokens.to_string().replace(' ', "");
        for path in text.split("crate::").skip(1) {
            let is_name = |at: char| at.is_alphanumeric() || at == '_' || at == ':';
            let path = path.split(|at| !is_name(at)).next().unwrap_or_default();
            self.code
                .insert(["crate"].into_iter().chain(path.split("::")).map(str::to_owned).collect());
        }
    }
}

fn add_tree(to: &mut BTreeSet<Names>, before: &Names, tree: &UseTree) {
    let with = |name: &syn::Ident| [&before[..], &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => add_tree(to, &with(&path.ident), &path.tree),
        UseTree::Name(name) if name.ident == "self" => drop(to.insert(before.clone())),
        UseTree::Name(name) => drop(to.insert(with(&name.ident))),
        UseTree::Rename(rename) => drop(to.insert(with(&rename.ident))),
        UseTree::Glob(_) => drop(to.insert(before.clone())),
        UseTree::Group(group) => group.items.iter().for_each(|item| add_tree(to, before, item)),
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Mod(ItemMod { attrs, .. }) | Item::Use(ItemUse { attrs, .. }) => attrs,
        _ => &[],
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    matches!(&attribute.meta, syn::Meta::List(list) if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
}

/// The paths that the code of a module uses, from the root of the crate on, without other crates.
fn reached(module: &Names, text: &str, modules: &BTreeSet<Names>) -> BTreeSet<Names> {
    let Paths { code, shown } = paths(text);
    code.union(&shown).filter_map(|path| from_root(module, path, modules)).collect()
}

fn paths(text: &str) -> Paths {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(text).unwrap());
    paths
}

fn from_root(module: &Names, path: &Names, modules: &BTreeSet<Names>) -> Option<Names> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([&module[..module.len() - ups], &path[ups..]].concat()),
        child => {
            let child = [&module[..], &[child.to_owned()]].concat();
            modules.contains(&child).then(|| [module, &path[..]].concat())
        }
    }
}

fn modules() -> BTreeSet<Names> {
    texts().keys().map(|file| module_of(file)).collect()
}

/// What the files of a module and of its submodules use in other modules.
fn reached_by(module: &str) -> BTreeSet<(String, Names)> {
    let modules = modules();
    let files = texts().into_iter().filter(|(file, _)| module_of(file)[0] == module);
    let of_file = |(file, text): (String, String)| {
        let found = reached(&module_of(&file), &text, &modules)
            .into_iter()
            .filter(|names| names.first().is_some_and(|top| top != module));
        found.map(|names| (file.clone(), names)).collect::<Vec<_>>()
    };
    files.flat_map(of_file).collect()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Whether this path leads to another module that is not below this one.
fn is_up(module: &str, path: &Names) -> bool {
    let other = path.first().and_then(|top| floor_of(top));
    other.is_some_and(|other| path[0] != module && other <= floor_of(module).unwrap())
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<_> = modules().into_iter().map(|names| names[0].clone()).collect();
    let floors: BTreeSet<_> = FLOORS.concat().into_iter().map(str::to_owned).collect();
    let without: BTreeSet<_> = ["lib", "main"].map(str::to_owned).into();
    assert_eq!(modules.difference(&without).collect::<Vec<_>>(), floors.iter().collect::<Vec<_>>());
}

#[test]
fn no_module_reaches_up() {
    for module in FLOORS.concat() {
        for (file, path) in reached_by(module) {
            assert!(
                !is_up(module, &path),
                "{file} reaches {}: that is not below {module}",
                path.join("::")
            );
        }
    }
}

#[test]
fn an_import_from_a_higher_layer_is_found() {
    let modules = modules();
    let all = FLOORS.concat();
    for module in &all {
        let at = vec![(*module).to_owned()];
        for other in all.iter().filter(|other| *other != module) {
            let plants = [
                format!("use crate::{other}::Thing;"),
                format!("use crate::{{error::Error, {other}::{{self, Thing}}}};"),
                format!("fn f() {{ crate::{other}::f(); }}"),
                format!("fn f(of: super::{other}::Thing) {{}}"),
                format!("fn f() {{ assert!(crate::{other}::f()); }}"),
            ];
            let is_found = |text: &String| {
                reached(&at, text, &modules)
                    .iter()
                    .any(|path| path[0] == **other && is_up(module, path))
            };
            let expected = floor_of(other) <= floor_of(module);
            assert!(plants.iter().all(|text| is_found(text) == expected), "{other} in {module}");
        }
        let in_a_test = format!("#[cfg(test)] mod tests {{ use crate::{}::Thing; }}", all[0]);
        assert!(reached(&at, &in_a_test, &modules).is_empty());
    }
}

/// For each module, the modules whose code it uses. A re-export counts for the module that it comes
/// from.
fn uses() -> BTreeMap<Names, BTreeSet<Names>> {
    let modules = modules();
    let paths: BTreeMap<_, _> =
        texts().iter().map(|(file, text)| (module_of(file), paths(text))).collect();
    let of_module = |(module, found): (&Names, &Paths)| {
        let files = found
            .code
            .iter()
            .filter_map(|path| file_of(&from_root(module, path, &modules)?, &paths, &modules));
        (module.clone(), files.filter(|other| other != module).collect())
    };
    paths.iter().map(of_module).collect()
}

/// The module that defines what this path, from the root, names.
fn file_of(
    path: &[String],
    paths: &BTreeMap<Names, Paths>,
    modules: &BTreeSet<Names>,
) -> Option<Names> {
    let length = (1..=path.len()).rev().find(|length| paths.contains_key(&path[..*length]))?;
    let module = path[..length].to_vec();
    let item = path.get(length);
    let shown = paths[&module].shown.iter().find(|shown| shown.len() > 1 && shown.last() == item);
    match shown.and_then(|shown| from_root(&module, shown, modules)) {
        Some(from) => file_of(&from, paths, modules),
        None => Some(module),
    }
}

/// The modules that use themselves through others.
fn in_circles(uses: &BTreeMap<Names, BTreeSet<Names>>) -> BTreeSet<Names> {
    let reaches_itself = |module: &Names| {
        let mut reached_modules = BTreeSet::new();
        let mut pending = vec![module];
        while let Some(others) = pending.pop().and_then(|module| uses.get(module)) {
            pending.extend(others.iter().filter(|other| reached_modules.insert((*other).clone())));
        }
        reached_modules.contains(module)
    };
    uses.keys().filter(|module| reaches_itself(module)).cloned().collect()
}

#[test]
fn no_files_import_each_other_in_a_cycle() {
    let mut uses = uses();
    let circles = in_circles(&uses);
    for module in &circles {
        println!(
            "{} -> {:?}",
            module.join("::"),
            uses[module].intersection(&circles).map(|names| names.join("::")).collect::<Vec<_>>()
        );
    }
    assert_eq!(circles, BTreeSet::new());
    // A cycle is found.
    let of = |text: &str| -> Names { text.split("::").map(str::to_owned).collect() };
    uses.entry(of("model::record")).or_default().insert(of("view::state"));
    assert!(
        in_circles(&uses).contains(&of("view::state")) && !in_circles(&uses).contains(&of("cli"))
    );
}

/// The files that contain one of the words, other than those below `allowed`.
fn found(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let has = |code: &str| words.iter().any(|word| code.contains(word));
    let outside = |name: &str| !allowed.iter().any(|allowed| name.starts_with(allowed));
    sources()
        .into_iter()
        .filter(|(name, code)| outside(name) && has(code))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn engines_are_named_only_where_one_is_chosen() {
    let sources = sources();
    let named = |word: &str| -> BTreeMap<String, Vec<String>> {
        let lines = |code: &str| -> Vec<_> {
            code.lines()
                .filter(|line| line.to_lowercase().contains(word))
                .map(|line| line.trim().to_owned())
                .collect()
        };
        sources
            .iter()
            .map(|(file, code)| (file.clone(), lines(code)))
            .filter(|(_, lines)| !lines.is_empty())
            .collect()
    };
    let files = |named: &BTreeMap<String, Vec<String>>| named.keys().cloned().collect::<Vec<_>>();
    let sled = named("sled");
    assert_eq!(
        files(&sled),
        [
            "cli/transfer.rs",
            "config.rs",
            "store/contract.rs",
            "store/embedded/tree.rs",
            "store/embedded/tree/cache.rs",
            "store/embedded/tree/database.rs",
        ]
    );
    assert_eq!(sled["store/contract.rs"], ["Sled,"]);
    // Above the store, an engine is chosen by name and its settings are read.
    let etcd = named("etcd");
    let above: Vec<_> =
        files(&etcd).into_iter().filter(|file| !file.starts_with("store")).collect();
    assert_eq!(
        above,
        ["cli/transfer.rs", "config.rs", "config/etcd.rs", "config/settings.rs", "proto.rs"]
    );
    assert_eq!(
        found(&["proto::etcd", "etcdserverpb"], &["store/cluster/client.rs", "proto.rs"]),
        [""; 0]
    );
}

#[test]
fn api_messages_are_used_by_grpc_and_its_callers_only() {
    assert_eq!(
        found(&["proto::v1", " v1::{", " v1 as pb"], &["grpc", "gateway", "ctl", "server.rs"]),
        [""; 0]
    );
}

#[test]
fn stored_messages_are_used_by_the_store_only() {
    assert_eq!(found(&["store_v1"], &["store/", "proto.rs"]), [""; 0]);
}

#[test]
fn the_gateway_uses_neither_service_nor_store() {
    reaches_only("gateway", &["auth", "clock", "error", "grpc", "limits", "proto", "telemetry"]);
}

#[test]
fn ctl_is_a_client_without_access_to_the_server() {
    reaches_only("ctl", &["clock", "fetch", "pem", "proto", "visible"]);
}

#[test]
fn transfer_goes_through_the_store_alone() {
    reaches_only("transfer", &["auth", "counted", "error", "fetch", "model", "store"]);
}

fn reaches_only(module: &str, others: &[&str]) {
    for (file, path) in reached_by(module) {
        assert!(others.contains(&&*path[0]), "{file} reaches {}", path.join("::"));
    }
}
