//! A command line taken apart: `WORD[;KEY=VALUE…] [ARGUMENT…]`.

pub(super) struct Command {
    pub(super) word: String,
    options: Vec<(String, String)>,
    arguments: Vec<u8>,
}

impl Command {
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let (head, arguments) = split(line);
        let head = text(head)?;
        let mut parts = head.split(';');
        let word = parts.next().unwrap_or_default().to_owned();
        let option = |part: &str| {
            let (key, value) = part.split_once('=').ok_or(format!("{part:?} is no option"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        let options = parts.map(option).collect::<Result<_, String>>()?;
        Ok(Self { word, options, arguments: arguments.to_vec() })
    }

    pub(super) fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(found, _)| found == key).map(|(_, value)| &value[..])
    }

    /// Options whose keys have a dot: attributes of the application.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &(String, String)> {
        self.options.iter().filter(|(key, _)| key.contains('.'))
    }

    /// The value of an option that is a number.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        let parsed = self.option(key).map(str::parse).transpose();
        parsed.map_err(|_| format!("{key} is no number"))
    }

    /// The next word of the arguments.
    pub(super) fn next(&mut self) -> Result<String, String> {
        let (word, left) = split(&self.arguments);
        let word = text(word)?;
        if word.is_empty() {
            return Err(format!("{} lacks an argument", self.word));
        }
        self.arguments = left.to_vec();
        Ok(word)
    }

    /// All that is left of the arguments: a payload.
    pub(super) fn left(&self) -> &[u8] {
        &self.arguments
    }
}

fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == b' ') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a word of a command is not UTF-8".to_owned())
}
