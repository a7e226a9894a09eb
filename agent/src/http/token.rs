//! Who may have the figures: whoever shows the token of a file, where one is named.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Longest file of a token, in bytes.
const LONGEST: usize = 4096;

/// Why somebody gets no figures.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The token is not the right one, or none was shown.
    Token,
    /// There is nothing to compare it with.
    Unusable(String),
}

/// The file, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Token(Option<PathBuf>);

impl Token {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self(file)
    }

    /// Whether that `Authorization` may have them. Reads the file each time, because a Secret that is mounted changes in place.
    pub(super) fn admits(&self, authorization: Option<&str>) -> Result<(), Refusal> {
        let Some(file) = &self.0 else { return Ok(()) };
        let wanted = read(file).map_err(Refusal::Unusable)?;
        let (scheme, shown) = authorization.and_then(|value| value.split_once(' ')).ok_or(Refusal::Token)?;
        // Digests are compared, so that the time tells nothing of the token.
        let same = Sha256::digest(shown.trim()) == Sha256::digest(wanted);
        if scheme.eq_ignore_ascii_case("bearer") && same { Ok(()) } else { Err(Refusal::Token) }
    }
}

/// The token without the white space around it. An empty one would admit everybody who shows none.
fn read(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("the token file {} cannot be read: {error}", file.display()))?;
    let token = text.trim();
    if token.is_empty() || text.len() > LONGEST {
        return Err(format!(
            "the token file {} holds {} bytes: 1 to {LONGEST} are expected",
            file.display(),
            text.len()
        ));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_everybody_is_answered() {
        assert_eq!(Token::new(None).admits(None), Ok(()));
    }

    #[test]
    fn with_one_only_who_shows_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        let token = Token::new(Some(file.clone()));
        let refused = token.admits(Some("Bearer secret"));
        assert!(matches!(refused, Err(Refusal::Unusable(why)) if why.contains("cannot be read")));
        std::fs::write(&file, "secret\n").unwrap();
        assert_eq!(token.admits(Some("Bearer secret")), Ok(()));
        assert_eq!(token.admits(Some("bearer  secret")), Ok(()));
        for other in [None, Some("Bearer"), Some("Bearer "), Some("Bearer secre"), Some("Basic secret")] {
            assert_eq!(token.admits(other), Err(Refusal::Token), "{other:?}");
        }
        std::fs::write(&file, "another").unwrap();
        assert_eq!(token.admits(Some("Bearer secret")), Err(Refusal::Token), "it is read anew");
        std::fs::write(&file, "\n").unwrap();
        assert!(matches!(token.admits(Some("Bearer ")), Err(Refusal::Unusable(_))));
    }
}
