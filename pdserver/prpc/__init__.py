"""brpc's protocol baidu_std ("PRPC"): brings calls to the services of `dialects.rpc`, and answers back."""
