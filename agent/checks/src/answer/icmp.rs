//! ICMP and ICMPv6 echo (RFC 792, RFC 4443, section 4).
