//! The nginx configuration language: lexer, parser with spans, directive records, settings, diagnostics.
