//! The variables of the environment. An empty one is an unset one, and a wrong one is named.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
};

use clap::{
    Command,
    builder::Resettable,
    error::{ContextKind, ContextValue, Error},
};

/// Variables that no argument has: the log, and those of tests and benchmarks.
const OTHERS: [&str; 2] = ["MUTE_LOG", "MUTE_BLESS"];
const PREFIXES: [&str; 2] = ["MUTE_TEST_", "MUTE_BENCH_"];

/// The command, for which variables that are empty are unset.
pub(super) fn without_empty_variables(command: Command) -> Command {
    without_variables(command, OsStr::is_empty)
}

/// The error as without variables, if they are not its cause: with them, its usage lists their
/// arguments as if they had to be given.
pub(super) fn with_short_usage(error: Error, command: Command, arguments: &[OsString]) -> Error {
    if !error.use_stderr() {
        return error;
    }
    let parsed = without_variables(command, |_| true).try_get_matches_from(arguments);
    parsed.err().filter(|other| other.kind() == error.kind()).unwrap_or(error)
}

fn without_variables(command: Command, which: fn(&OsStr) -> bool) -> Command {
    let command = command.mut_args(|argument| {
        let variable = argument.get_env().and_then(env::var_os);
        if variable.is_some_and(|value| which(&value)) {
            argument.env(Resettable::Reset)
        } else {
            argument
        }
    });
    command.mut_subcommands(|below| without_variables(below, which))
}

/// A sentence for each variable `MUTE_...` that the program does not know, with the nearest that it
/// knows.
pub(super) fn unknown(command: &Command) -> Vec<String> {
    let known = known(command);
    let set = env::vars_os().filter(|(_, value)| !value.is_empty());
    let names = set.filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<_> =
        names.filter(|name| name.starts_with("MUTE_") && !is_known(name, &known)).collect();
    unknown.sort_unstable();
    let distance = |name: &str, other: &str| strsim::damerau_levenshtein(name, other);
    let sentences = unknown.iter().map(|name| {
        let nearest = known.iter().min_by_key(|known| distance(name, known));
        format!(
            "the variable {name} is unknown and has no effect; the nearest one is {}",
            nearest.map_or("", String::as_str)
        )
    });
    sentences.collect()
}

fn is_known(name: &str, known: &BTreeSet<String>) -> bool {
    known.contains(name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || is_service_link(name)
}

/// Whether Kubernetes or Docker sets it, for a service whose name begins with "mute".
fn is_service_link(name: &str) -> bool {
    let is_url = |value: String| value.starts_with("tcp://") || value.starts_with("udp://");
    name.contains("_SERVICE_")
        || name.contains("_PORT_")
        || name.ends_with("_PORT") && env::var(name).is_ok_and(is_url)
}

fn known(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_env()?.to_str());
    let mut names: BTreeSet<_> = own.chain(OTHERS).map(str::to_owned).collect();
    names.extend(command.get_subcommands().flat_map(known));
    names
}

/// The error of the command line, with the variable whose value it refuses.
pub(super) fn with_variable(mut error: Error, command: &Command, arguments: &[OsString]) -> Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = argument.split(' ').next().unwrap_or_default().to_owned();
    if let Some(variable) = variable_of(command, flag.trim_start_matches("--"))
        && !is_given(arguments, &flag)
    {
        let tip = format!("the value is that of the variable {variable}");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The variable that is set for this argument of the command or of one below it.
fn variable_of(command: &Command, long: &str) -> Option<String> {
    let own = command.get_arguments().find(|argument| argument.get_long() == Some(long));
    let set = own.and_then(|argument| argument.get_env()).filter(|name| is_set(name.to_str()));
    let set = set.and_then(|name| name.to_str()).map(str::to_owned);
    set.or_else(|| command.get_subcommands().find_map(|below| variable_of(below, long)))
}

fn is_set(name: Option<&str>) -> bool {
    name.and_then(env::var_os).is_some_and(|value| !value.is_empty())
}

fn is_given(arguments: &[OsString], flag: &str) -> bool {
    arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
        argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// The errors of a configuration, each with the variables that are set for what it names.
pub(super) fn with_variables(errors: Vec<String>) -> Vec<String> {
    let arguments: Vec<_> = env::args_os().collect();
    let with = |error: String| {
        let is_of_name = |at: char| at.is_ascii_lowercase() || at == '_' || at == '-';
        // A path may have the name of a setting in it.
        let words = error.split_whitespace().filter(|word| !word.contains('/'));
        let names = words.flat_map(|word| word.split(|at| !is_of_name(at)));
        let names = names.map(|name| name.trim_matches('-'));
        let variables: BTreeSet<_> = names
            .filter(|name| !is_given(&arguments, &format!("--{}", name.replace('_', "-"))))
            .map(|name| format!("MUTE_{}", name.replace('-', "_").to_ascii_uppercase()))
            .filter(|variable| is_set(Some(variable)))
            .collect();
        let variables: Vec<_> = variables.into_iter().collect();
        if variables.is_empty() {
            error
        } else {
            format!("{error} (set by the environment: {})", variables.join(", "))
        }
    };
    errors.into_iter().map(with).collect()
}
