//! The file of `--users`: a name and a token on each line.

use std::{fs, path::Path};

use bellwire::server::{Principal, TokenAuthenticator};

use crate::failed::{Failed, of_file};

/// Names and tokens.
pub(crate) struct Users(Vec<(String, String)>);

impl Users {
    pub(crate) fn read(path: &Path) -> Result<Self, Failed> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| of_file("read the users in", path, error))?;
        let users = parse(&text).map_err(|what| {
            of_file("read the users in", path, what).hint("each line is NAME TOKEN")
        })?;
        Ok(Self(users))
    }

    pub(crate) fn authenticator(self) -> TokenAuthenticator {
        self.0.into_iter().fold(TokenAuthenticator::new(), |known, (name, token)| {
            known.token(token, Principal::new(name))
        })
    }
}

/// Empty lines and those that begin with # do not count. Errors name a line, and never its text.
fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut users = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next(), words.next()) {
            (None, ..) => {}
            (Some(comment), ..) if comment.starts_with('#') => {}
            (Some(name), Some(token), None) => users.push((name.to_owned(), token.to_owned())),
            _ => return Err(format!("line {number} is not a name and a token")),
        }
    }
    match users.is_empty() {
        true => Err("it names nobody".into()),
        false => Ok(users),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_name_and_a_token() {
        let users = parse("# ours\n\nada 5f1c\n bob\tc2b9 \n").unwrap();
        assert_eq!(users, [("ada".into(), "5f1c".into()), ("bob".into(), "c2b9".into())]);
        for wrong in ["", "# nobody", "ada", "ada 5f1c c2b9"] {
            let error = parse(wrong).unwrap_err();
            assert!(!error.contains("5f1c"), "{error}");
        }
    }
}
