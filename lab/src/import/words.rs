//! Splits commands into words, as containerlab does for `exec` (no shell: quotes and backslashes alone have a meaning), and the scripts of
//! `sh -c` into commands as far as no real shell is needed for it.

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    /// `>`: what is printed goes into the file that follows.
    Into,
    /// `&&`, `;` or the end of a line.
    End,
}

/// The words of a command.
///
/// # Errors
/// When a quote does not end, or a variable would have to be known.
pub(super) fn split(text: &str) -> Result<Vec<String>, String> {
    let tokens = Lexer { rest: text, shell: false }.tokens()?;
    let word = |token| if let Token::Word(word) = token { Some(word) } else { None };
    Ok(tokens.into_iter().filter_map(word).collect())
}

/// The commands of a script.
///
/// # Errors
/// When it has something that only a shell understands.
pub(super) fn script(text: &str) -> Result<Vec<Vec<Token>>, String> {
    let tokens = Lexer { rest: text, shell: true }.tokens()?;
    let commands = tokens.split(|token| *token == Token::End);
    Ok(commands.filter(|command| !command.is_empty()).map(<[Token]>::to_vec).collect())
}

/// Words as a command line for a shell.
pub(super) fn quote(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    let quoted = words.iter().map(|word| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

struct Lexer<'a> {
    rest: &'a str,
    shell: bool,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    fn tokens(mut self) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        let mut word: Option<String> = None;
        while let Some(c) = self.next() {
            let special = match c {
                '\n' | ';' if self.shell => Some(Token::End),
                '&' if self.shell && self.rest.starts_with('&') => {
                    self.next();
                    Some(Token::End)
                }
                '>' if self.shell && !self.rest.starts_with(['>', '&', '|']) && word.is_none() => {
                    Some(Token::Into)
                }
                _ => None,
            };
            if special.is_some() || c.is_whitespace() {
                tokens.extend(word.take().map(Token::Word));
                tokens.extend(special);
                continue;
            }
            let open = word.get_or_insert_default();
            match c {
                '\'' => self.quoted('\'', open)?,
                '"' => self.quoted('"', open)?,
                '\\' => open.extend(self.next()),
                '$' | '`' => return Err(variable(c)),
                '|' | '&' | '<' | '>' | '(' | ')' | '{' | '}' | '*' | '?' | '[' | '#' | '~' if self.shell => {
                    return Err(format!("`{c}` needs a shell"));
                }
                _ => open.push(c),
            }
        }
        tokens.extend(word.map(Token::Word));
        Ok(tokens)
    }

    fn quoted(&mut self, quote: char, word: &mut String) -> Result<(), String> {
        loop {
            match self.next() {
                None => return Err(format!("a quote ({quote}) does not end")),
                Some(c) if c == quote => return Ok(()),
                // Of a script that a shell will read, the variables are the shell's business.
                Some(c @ ('$' | '`')) if quote == '"' => return Err(variable(c)),
                Some('\\') if quote == '"' => match self.next() {
                    Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                    Some(c) => word.extend(['\\', c]),
                    None => {}
                },
                Some(c) => word.push(c),
            }
        }
    }
}

fn variable(c: char) -> String {
    format!("`{c}` stands for something that is known in the container only")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_without_a_shell() {
        let words = |text: &str| split(text).map(|words| words.join("|"));
        assert_eq!(words("ip  addr add\t10.0.0.1/24 dev eth1").unwrap(), "ip|addr|add|10.0.0.1/24|dev|eth1");
        assert_eq!(words(r#"sh -c "ip link && \"x\"" 'a b'"#).unwrap(), r#"sh|-c|ip link && "x"|a b"#);
        assert_eq!(words(r"a\ b ''").unwrap(), "a b|");
        assert_eq!(words("ip addr && x").unwrap(), "ip|addr|&&|x", "no shell reads it");
        assert!(words("echo 'a").unwrap_err().contains("does not end"));
        assert!(words("echo $HOME").unwrap_err().contains('$'));
        assert!(words("echo \"$HOME\"").is_err());
    }

    #[test]
    fn scripts_are_split_into_commands() {
        let count = |text: &str| script(text).map(|commands| commands.len());
        assert_eq!(count("ip link show && ip addr show; true\n\ntrue;").unwrap(), 4);
        let commands = script("echo 1 > /proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(commands[0][2], Token::Into);
        for bad in
            ["a | b", "a || b", "a &", "a 2>/dev/null", "a >> b", "for i in $x", "ls *", "(a)", "a $(b)"]
        {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_quoted_is_one_word_again() {
        let words = ["ip", "a b", "it's", "", "10.0.0.1/24"].map(str::to_owned);
        let text = quote(&words);
        assert_eq!(text, r"ip 'a b' 'it'\''s' '' 10.0.0.1/24");
        assert_eq!(split(&text).unwrap(), words);
    }
}
