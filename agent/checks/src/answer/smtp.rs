//! SMTP replies (RFC 5321, section 4.2).
