"""Who a person is: authenticators, sessions, API tokens, and the checks a sign-in page needs."""
