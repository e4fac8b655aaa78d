//! Key-value settings of the name server (nameserver.md §8).

use crate::header;

header! {
    /// Stores a setting (code 100).
    pub struct PutSettingRequest {
        /// The namespace.
        "namespace" namespace: String,
        /// The key.
        "key" key: String,
        /// The value.
        "value" value: String,
    }
}

header! {
    /// Names a setting (codes 101 and 102).
    pub struct SettingRequest {
        /// The namespace.
        "namespace" namespace: String,
        /// The key.
        "key" key: String,
    }
}

header! {
    /// The value of a setting.
    pub struct SettingResponse {
        /// The value.
        "value" value: Option<String>,
    }
}

header! {
    /// Names a namespace (code 219).
    pub struct NamespaceRequest {
        /// The namespace.
        "namespace" namespace: String,
    }
}
