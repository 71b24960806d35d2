"""What closes a cluster: its secret, and what is signed with it. Pure, and knows no server.

| thing | who makes it | who checks it | what it allows |
| --- | --- | --- | --- |
| secret | `filefly-client secret new` | every daemon has a copy | everything: it signs the rest |
| token | `filefly-client token new` | metadata server | a role, perhaps only under a prefix of names |
| ticket | metadata server, with each plan | data server | to store or to read the blocks of one plan there |
| proof | daemons, over a nonce of the other's | the other daemon | to look after the cluster |
"""
