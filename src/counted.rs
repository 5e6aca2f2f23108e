//! A number with the noun that it counts.

/// Such as `1 record` and `2 records`. For nouns whose plural ends with an `s`.
#[must_use]
pub fn counted(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_all_others_are_plural() {
        let counts = [0, 1, 2, 21].map(|number| counted(number, "app"));
        assert_eq!(counts, ["0 apps", "1 app", "2 apps", "21 apps"]);
    }
}
