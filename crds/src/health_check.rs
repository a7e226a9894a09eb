//! HealthCheck: how a real server shows that it is alive.

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Condition, Duration, between, conditions, exactly_one, rule, rule_at, shape};

/// How a real server shows that it is alive. One probe runs for each distinct target and probe on a director, however many
/// services share it.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bascule.dev",
    version = "v1alpha1",
    kind = "HealthCheck",
    plural = "healthchecks",
    shortname = "hc",
    category = "bascule",
    namespaced,
    status = "HealthCheckStatus",
    derive = "PartialEq",
    doc = "How a real server shows that it is alive.",
    printcolumn(
        name = "Interval",
        type_ = "string",
        json_path = ".spec.interval",
        description = "From start to start of two probes."
    ),
    printcolumn(
        name = "Rise",
        type_ = "integer",
        json_path = ".spec.rise",
        description = "Successes until it is up."
    ),
    printcolumn(
        name = "Fall",
        type_ = "integer",
        json_path = ".spec.fall",
        description = "Failures until it is down."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether it can be run."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = spec_rules()))]
pub struct HealthCheckSpec {
    /// From the start of a probe to the start of the next, 10ms to 24h (keepalived: delay_loop). Default: 5s.
    #[serde(default = "interval")]
    #[schemars(extend("x-kubernetes-validations" = between("10ms", "24h")))]
    pub interval: Duration,
    /// How long a probe may take, 1ms to `interval` (keepalived: connect_timeout). Default: 3s, or `interval` if that is less; for
    /// `udp` without `requireReply` 4s, which is longer than the kernel asks for the address of a machine that is switched off, or
    /// `interval` or `retryInterval` if one of them is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub timeout: Option<Duration>,
    /// Successes in a row until a real server is up, 1 to 100. Default: 1.
    #[serde(default = "rise")]
    #[schemars(range(min = 1, max = 100))]
    pub rise: u32,
    /// Failures in a row until a real server is down, 1 to 100 (keepalived: retry + 1). Default: 3.
    #[serde(default = "fall")]
    #[schemars(range(min = 1, max = 100))]
    pub fall: u32,
    /// From start to start while probes fail, at least `timeout` and at most 24h (keepalived: delay_before_retry). Default:
    /// `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("1ms", "24h")))]
    pub retry_interval: Option<Duration>,
    /// When the first probe starts, at most 24h after the check appeared (keepalived: warmup). Default: spread over `interval`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = between("0s", "24h")))]
    pub initial_delay: Option<Duration>,
    /// Port to probe (keepalived: connect_port). Default: the real server's, for the first of the service's ports that is not 0.
    /// Services by firewall mark have none: there it must be given. Not for ping and file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Address to probe (keepalived: connect_ip). Default: the real server's. A loopback or link-local one is the director's own
    /// matter: its `allowedTargets` must have it. Not for file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Unicast>")]
    pub address: Option<IpAddr>,
    /// Own address to probe from (keepalived: bindto). Default: what routing chooses. Not for exec and file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Unicast>")]
    pub source_address: Option<IpAddr>,
    /// Firewall mark on the probe's packets, for policy routing (keepalived: fwmark). Not for exec and file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub mark: Option<u32>,
    /// A TCP connection is accepted (keepalived: TCP_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// An HTTP request is answered as it should be (keepalived: HTTP_GET, SSL_GET).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// An SMTP server greets (keepalived: SMTP_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp: Option<SmtpProbe>,
    /// A name server answers (keepalived: DNS_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsProbe>,
    /// A datagram is not refused, or is answered (keepalived: UDP_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<UdpProbe>,
    /// An ICMP echo request is answered (keepalived: PING_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<PingProbe>,
    /// A program decides (keepalived: MISC_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecProbe>,
    /// A file decides (keepalived: FILE_CHECK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileProbe>,
}

fn interval() -> Duration {
    Duration::from_secs(5)
}

const fn rise() -> u32 {
    1
}

const fn fall() -> u32 {
    3
}

fn spec_rules() -> Vec<serde_json::Value> {
    vec![
        exactly_one(&["tcp", "http", "smtp", "dns", "udp", "ping", "exec", "file"]),
        rule_at(
            ".timeout",
            "!has(self.timeout) || duration(self.timeout) <= duration(self.interval)",
            "timeout must not be longer than interval",
        ),
        rule_at(
            ".retryInterval",
            "!has(self.retryInterval) || (has(self.timeout) ? duration(self.retryInterval) >= duration(self.timeout) \
             : duration(self.retryInterval) >= duration('3s') || duration(self.retryInterval) >= duration(self.interval))",
            "retryInterval must not be shorter than timeout (unless told, 3s or interval)",
        ),
        rule_at(
            ".port",
            "!has(self.port) || !(has(self.ping) || has(self.file))",
            "ping and file have no port",
        ),
        rule_at(".address", "!has(self.address) || !has(self.file)", "file has no address"),
        rule_at(
            ".sourceAddress",
            "!has(self.sourceAddress) || !(has(self.exec) || has(self.file))",
            "exec and file have no sourceAddress",
        ),
        rule_at(
            ".mark",
            "!has(self.mark) || !(has(self.exec) || has(self.file))",
            "exec and file have no mark",
        ),
        rule_at(
            ".sourceAddress",
            "!has(self.sourceAddress) || !has(self.address) || self.sourceAddress.contains(':') == self.address.contains(':')",
            "sourceAddress must be of the family of address",
        ),
    ]
}

/// A TCP connection is accepted. It has no settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpProbe {}

/// An HTTP request and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(".tls", "!has(self.tls) || self.scheme == 'HTTPS'", "tls belongs to the scheme HTTPS"),
    rule_at(".method", "self.method == 'GET' || !(has(self.body) || has(self.digest))", "the answer to HEAD has no body to look at")]))]
pub struct HttpProbe {
    /// HTTP or HTTPS. Default: HTTP.
    #[serde(default)]
    pub scheme: HttpScheme,
    /// Path and query of the request. Default: `/`.
    #[serde(default = "root_path")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/[!-~]*$"))]
    pub path: String,
    /// Host of the request, with a port if need be (keepalived: virtualhost). Default: the service's `checkHost`, else the
    /// address that is probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::HostName>")]
    pub host: Option<String>,
    /// GET or HEAD. Default: GET.
    #[serde(default)]
    pub method: HttpMethod,
    /// Version of HTTP: "1.1" or "1.0" (keepalived: http_protocol). Default: "1.1".
    #[serde(default)]
    pub version: HttpVersion,
    /// Further headers, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub headers: Vec<HttpHeader>,
    /// Status codes that pass, 1 to 16 of codes and ranges (keepalived: status_code). Default: "200-299".
    #[serde(default = "status_codes")]
    #[schemars(with = "Vec<StatusCodes>", length(min = 1, max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub status_codes: Vec<String>,
    /// Digest that the body must have (keepalived: digest, the MD5 that genhash prints).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the body must look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyMatch>,
    /// How the certificate is verified, for HTTPS. Absent: fully, against the system's authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

fn root_path() -> String {
    "/".into()
}

fn status_codes() -> Vec<String> {
    vec!["200-299".into()]
}

/// Shape of a status code or a range, for the schema.
#[derive(Debug)]
enum StatusCodes {}

impl JsonSchema for StatusCodes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StatusCodes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 3,
            "maxLength": 7,
            "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$",
            "x-kubernetes-validations": [rule("!self.contains('-') || self.split('-')[0] <= self.split('-')[1]",
                "a range of status codes goes from the lower to the higher")],
        })
    }
}

/// HTTP or HTTPS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpScheme {
    /// Plain.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

/// GET or HEAD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// With a body.
    #[default]
    Get,
    /// Without.
    Head,
}

/// Version of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "1.1")]
    V1_1,
    /// HTTP/1.0.
    #[serde(rename = "1.0")]
    V1_0,
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    /// Its name.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_|~-]+$"))]
    pub name: String,
    /// Its value.
    #[schemars(length(max = 1024), regex(pattern = "^[ -~]*$"))]
    pub value: String,
}

/// Digest of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".value", "self.value.size() == (self.algorithm == 'md5' ? 32 : 64)",
    "md5 has 32 hexadecimal digits, sha256 has 64")]))]
pub struct Digest {
    /// md5 or sha256.
    pub algorithm: DigestAlgorithm,
    /// The digest, in lower-case hexadecimal digits.
    #[schemars(length(min = 32, max = 64), regex(pattern = "^[0-9a-f]+$"))]
    pub value: String,
}

/// Algorithm of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DigestAlgorithm {
    /// As keepalived's genhash prints.
    Md5,
    /// SHA-256.
    Sha256,
}

/// What a body must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.matches) || has(self.notMatches)", "matches or notMatches must be set")]))]
pub struct BodyMatch {
    /// Regular expression (RE2: no look-around, no back-references) that must match somewhere in the first 64 KiB (keepalived:
    /// regex). Compiled it may take 256 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub matches: Option<String>,
    /// Regular expression (RE2) that must not match there (keepalived: regex_no_match).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub not_matches: Option<String>,
}

/// How a certificate is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".caBundle", "!has(self.caBundle) || self.verify == 'Full'", "caBundle needs verify: Full")]))]
pub struct Tls {
    /// Name that is asked for (SNI) and verified. Default: the host of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?$"))]
    pub server_name: Option<String>,
    /// `Full` verifies chain and name, `None` nothing. Default: Full.
    #[serde(default)]
    pub verify: TlsVerify,
    /// Certificates of the authorities, in PEM, at most 64 KiB. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536), regex(pattern = "^[ \\t\\r\\n]*-----BEGIN CERTIFICATE-----"))]
    pub ca_bundle: Option<String>,
}

/// Whether a certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TlsVerify {
    /// Chain and name.
    #[default]
    Full,
    /// Nothing.
    None,
}

/// An SMTP server greets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SmtpProbe {
    /// Name given in HELO, or an address in brackets (keepalived: helo_name). Default: the director's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::HeloName>")]
    pub helo: Option<String>,
    /// Whether STARTTLS must succeed. Default: false.
    #[serde(default)]
    pub start_tls: bool,
}

/// A name server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsProbe {
    /// Name to ask for. Default: `.`, the root.
    #[serde(default = "root_name")]
    #[schemars(
        length(min = 1, max = 254),
        regex(pattern = "^(\\.|[A-Za-z0-9_-]{1,63}(\\.[A-Za-z0-9_-]{1,63})*\\.?)$")
    )]
    pub name: String,
    /// Type to ask for. Default: SOA.
    #[serde(default, rename = "type")]
    pub type_: DnsType,
    /// UDP or TCP. Default: UDP.
    #[serde(default)]
    pub transport: DnsTransport,
}

fn root_name() -> String {
    ".".into()
}

/// Type of a DNS record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are those of the DNS")]
pub enum DnsType {
    A,
    Aaaa,
    Cname,
    Dnskey,
    Mx,
    Ns,
    Rrsig,
    #[default]
    Soa,
    Txt,
}

/// Transport of a DNS query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum DnsTransport {
    /// Datagrams.
    #[default]
    Udp,
    /// A connection.
    Tcp,
}

/// A datagram is not refused, or is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule_at(".reply", "!has(self.reply) || self.requireReply", "reply needs requireReply: true")]))]
pub struct UdpProbe {
    /// What is sent, in hexadecimal digits, at most 1024 bytes. Default: an empty datagram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2048), regex(pattern = "^([0-9a-fA-F]{2})+$"))]
    pub payload: Option<String>,
    /// How the reply must begin, in hexadecimal digits, at most 1024 bytes; `?` stands for any digit. Absent: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 2048), regex(pattern = "^([0-9a-fA-F?]{2})+$"))]
    pub reply: Option<String>,
    /// Whether silence is a failure. Otherwise only an ICMP error is (keepalived: require_reply). Default: false.
    #[serde(default)]
    pub require_reply: bool,
}

/// An ICMP echo request is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PingProbe {
    /// Bytes of payload, 0 to 65507. Default: 56.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65507))]
    pub size: Option<u16>,
}

/// A program decides: exit 0 is up, anything else down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecProbe {
    /// Base name of the program, in the directory given to the agent by `--allow-exec`. It is run without a shell, as a user of
    /// its own, without capabilities, in a clean environment.
    #[schemars(with = "shape::FileName")]
    pub program: String,
    /// Its arguments, handed over as they are: at most 16 of 128 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<shape::Argument>", length(max = 16))]
    pub args: Vec<String>,
    /// Exit status 2 to 255 is up with the weight `status - 2` (keepalived: misc_dynamic). Default: false.
    #[serde(default)]
    pub dynamic_weight: bool,
}

/// A file decides. It is watched, not polled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileProbe {
    /// Base name of a file in the directory of the agent's `--allow-file`. A number in it is the weight; without a number its
    /// presence decides.
    #[schemars(with = "shape::FileName")]
    pub name: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
