#!/usr/bin/env node
// This file has no static imports: on an older Node.js, a dependency would fail before this check could explain why.
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
if (major < 22 || (major === 22 && minor < 19)) {
  console.error(`keyward-kv: this is Node.js ${process.versions.node}, and keyward-kv needs Node.js 22.19 or newer.`);
  process.exitCode = 1;
} else {
  // No top-level await, whose warning would be printed if the configuration never finishes.
  void import("./main.ts").then(({ runProcess }) => runProcess("keyward-kv"));
}

export {};
