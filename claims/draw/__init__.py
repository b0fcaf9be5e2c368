"""Every picture and record that README, CLAIMS.md and the lessons show, and the code that makes each."""
