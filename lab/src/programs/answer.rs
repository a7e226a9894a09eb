//! How a server of the lab says who it is, and how a client reads it back.

/// The page of a web server: Apache's default heading with the server's name behind it, as the TP has it edited.
pub fn page(name: &str) -> String {
    format!("<html><body><h1>It Works! {name}</h1></body></html>\n")
}

/// Header in which a web server repeats its name.
pub const SERVER_HEADER: &str = "x-bascule-server";

/// The name in a page made by [`page`], whatever stands around it.
pub fn answerer_in_page(body: &str) -> Option<String> {
    let rest = body.split_once("It Works! ")?.1;
    let name: String = rest.chars().take_while(|c| !c.is_whitespace() && *c != '<').collect();
    (!name.is_empty()).then_some(name)
}

/// The name in a line of a TCP or UDP server: `SRV1 the line that was sent`, and whether the rest is what was sent.
pub fn answerer_in_line(line: &str, sent: &str) -> Option<String> {
    let line = line.trim_end_matches(['\r', '\n']);
    let (name, rest) = line.split_once(' ')?;
    (!name.is_empty() && rest == sent).then(|| name.to_owned())
}

/// Bytes of a line of a download, its end included.
pub const STREAM_LINE: usize = 1024;

/// A line of a download that does not end: who sends it, its number from 0, and filling.
pub fn stream_line(name: &str, number: u64) -> String {
    let mut line = format!("{name} {number} ");
    while line.len() < STREAM_LINE - 1 {
        line.push('.');
    }
    line.push('\n');
    line
}

/// Who sent a line of a download and its number.
pub fn read_stream_line(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_names_its_server() {
        assert_eq!(answerer_in_page(&page("SRV1")).as_deref(), Some("SRV1"));
        assert_eq!(answerer_in_page("It Works! SRV2\n").as_deref(), Some("SRV2"));
        assert_eq!(answerer_in_page("It Works! "), None);
        assert_eq!(answerer_in_page("503"), None);
    }

    #[test]
    fn lines_of_a_download_are_numbered() {
        let line = stream_line("SRV1", 70_000);
        assert_eq!(line.len(), STREAM_LINE);
        assert_eq!(read_stream_line(&line), Some(("SRV1", 70_000)));
        assert_eq!(read_stream_line("SRV1"), None);
    }

    #[test]
    fn a_line_names_its_server_only_when_it_echoes() {
        assert_eq!(answerer_in_line("SRV1 ping 3\n", "ping 3").as_deref(), Some("SRV1"));
        assert_eq!(answerer_in_line("SRV1 ping 3\n", "ping 4"), None);
        assert_eq!(answerer_in_line("", "ping"), None);
    }
}
