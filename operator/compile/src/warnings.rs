//! What the kernel does as it is told and hardly anybody means: it is in use for good reasons, so it is no mistake, but who meets it
//! by accident finds a service that looks well and never answers.

use bascule_crds::VirtualServiceSpec;
use bascule_crds::virtual_service::{ForwardingMethod, PersistenceEngine};

use crate::service;
use crate::types::Warning;

/// What is to be said of a VirtualService in which nothing is wrong.
pub(crate) fn virtual_service(spec: &VirtualServiceSpec) -> Vec<Warning> {
    one_packet(spec).into_iter().collect()
}

/// The kernel forgets a one-packet connection with its packet (net/netfilter/ipvs: it is never hashed, and
/// `ip_vs_update_conntrack` leaves it alone), so that nothing translates an answer of a masqueraded real server back. The
/// persistence engine makes a connection from the answer itself (`ip_vs_new_conn_out`).
fn one_packet(spec: &VirtualServiceSpec) -> Option<Warning> {
    let sip = spec.persistence.as_ref().is_some_and(|one| one.engine == Some(PersistenceEngine::Sip));
    let masquerade = |method: ForwardingMethod| method == ForwardingMethod::Masquerade;
    let masqueraded =
        spec.real_servers.iter().find(|server| masquerade(service::forwarding(spec, server).method));
    if !spec.one_packet || sip {
        return None;
    }
    let server = masqueraded?;
    Some(Warning {
        field: "spec.onePacket".into(),
        message: format!(
            "the answers of real server {}, reached by Masquerade, are not translated back: the kernel keeps no state of single \
             packets, and clients get answers from an address that they did not ask; this is for one-way traffic only, such as \
             syslog; for anything that answers use DirectRouting or Tunnel, or leave onePacket out",
            server.name
        ),
    })
}
