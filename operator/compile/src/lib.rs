//! Pure: a snapshot of manifests in, what each director must do out.
